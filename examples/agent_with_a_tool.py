"""Any-to-any for an agent: give it the tool. The agent's own chat model is scripted here; put yours in its place."""

import sys

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage

import anyloom


class Scripted(GenericFakeChatModel):
    def bind_tools(self, tools, **kwargs):
        return self


def main(model: str = "pocket") -> ToolMessage:
    with anyloom.load_engine(model) as engine, anyloom.open_store() as store:
        tool = anyloom.AnyGPTTool(engine=engine, store=store)
        call = {"name": tool.name, "args": {"text": "draw a red apple", "to": "image", "seed": 1}, "id": "1"}
        mind = Scripted(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("Here is your apple.")]))
        said = create_agent(mind, [tool]).invoke({"messages": [("user", "I would like a picture of an apple.")]})
        [answer] = [message for message in said["messages"] if isinstance(message, ToolMessage)]
        print(answer.content)  # short text and handles: no picture in the agent's context
        return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
