"""Several agents share one engine: their turns are decoded together, and each keeps its own conversation."""

import asyncio
import sys

import anyloom

AGENTS = {"painter": "image", "singer": "music", "speaker": "speech"}


async def agent(graph, name: str, to: str) -> tuple[str, str]:
    options = {"to": to, "conversation": name, "seed": 1, "max_seconds": 2.0, "max_tokens": 400}
    result = await graph.ainvoke({"messages": [("user", f"I am the {name}.")]}, context=options)
    return name, result["turn"]


async def all_at_once(graph) -> dict[str, str]:
    return dict(await asyncio.gather(*(agent(graph, name, to) for name, to in AGENTS.items())))


def main(model: str = "pocket") -> dict[str, list[str]]:
    with anyloom.load_engine(model) as engine, anyloom.open_store() as store:
        turns = asyncio.run(all_at_once(anyloom.build_graph(engine, store)))
        made = {name: [part.modality.value for part in store.turn(turn).reply] for name, turn in turns.items()}
        print(made)
        return made


if __name__ == "__main__":
    main(*sys.argv[1:])
