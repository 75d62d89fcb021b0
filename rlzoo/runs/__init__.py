"""Run folders: train, evaluate, record results. The registry is passed on to the command line."""

from rlzoo.agents.registry import AGENTS, AgentSpec, get_agent

__all__ = ["AGENTS", "AgentSpec", "get_agent"]
