"""The chat model, streaming: text as it is made, then a handle for the sound, which becomes a file."""

import sys
from pathlib import Path

import anyloom
from anyloom.graphs.handles import handles, to_file


def main(model: str = "pocket", out: str = "out") -> list[Path]:
    with anyloom.load_engine(model) as engine, anyloom.open_store() as store:
        chat = anyloom.ChatAnyGPT(engine=engine, store=store, seed=1).bind(to="speech", max_seconds=4.0)
        reply = None
        for chunk in chat.stream("Say: good morning."):
            print(chunk.text, end="", flush=True)
            reply = chunk if reply is None else reply + chunk
        Path(out).mkdir(parents=True, exist_ok=True)
        files = [to_file(store, one, Path(out) / f"reply-{number}.wav") for number, one in enumerate(handles(reply))]
        print(*files, reply.usage_metadata, sep="\n")
        return files


if __name__ == "__main__":
    main(*sys.argv[1:])
