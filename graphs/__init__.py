"""Floor 2: assembly. The StateGraph, the LangChain tool and chat model, replay and fork."""
