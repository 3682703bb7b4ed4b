"""The graph as one node of a larger one: your own state, your own checkpointer, one conversation."""

import sys

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

import anyloom


def polite(state: MessagesState) -> dict:
    return {"messages": [("user", "Please: " + state["messages"][-1].text)]}


def main(model: str = "pocket") -> list:
    with anyloom.load_engine(model) as engine, anyloom.open_store() as store:
        builder = StateGraph(MessagesState)
        builder.add_sequence([polite, ("anyloom", anyloom.build_graph(engine, store))])
        builder.add_edge(START, "polite")
        graph = builder.compile(checkpointer=InMemorySaver())
        thread = {"configurable": {"thread_id": "a conversation"}}
        for words in ("what is a cat?", "and a dog?"):
            messages = graph.invoke({"messages": [("user", words)]}, thread)["messages"]
            print(messages[-1].text)
        return messages


if __name__ == "__main__":
    main(*sys.argv[1:])
