"""LangChain's own standard suites for chat models and tools, over the scripted model."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, ToolsUnitTests

from anyloom.graphs.chat_model import ChatAnyGPT
from anyloom.graphs.tool import AnyGPTTool


class Collaborators:
    """What both classes are made of; renewed for every test."""

    made_of: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _collaborators(self, engine: Any, store: Any) -> None:
        Collaborators.made_of = {"engine": engine, "store": store}


class ChatModel(Collaborators):
    """The answers that the suites ask of a class under test."""

    chat_model_class = ChatAnyGPT
    has_tool_calling = False
    has_tool_choice = False
    has_structured_output = False

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.made_of


class TestChatModelUnit(ChatModel, ChatModelUnitTests):
    pass


class TestChatModelIntegration(ChatModel, ChatModelIntegrationTests):
    pass


class Tool(Collaborators):
    """The answers that the suites ask of a tool under test."""

    tool_constructor = AnyGPTTool
    tool_invoke_params_example: ClassVar[dict[str, Any]] = {"text": "hello"}

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return self.made_of


class TestToolUnit(Tool, ToolsUnitTests):
    pass


class TestToolIntegration(Tool, ToolsIntegrationTests):
    pass
