"""``rlzoo list``."""

from __future__ import annotations


def list_agents() -> None:
    """List the agents: what they need, their presets, where they come from."""
    from rlzoo.config import config_files, load_yaml
    from rlzoo.report.tables import text_table
    from rlzoo.runs import AGENTS

    rows = []
    for name, spec in AGENTS.items():
        presets: list[str] = []
        for file in config_files(name):
            presets += load_yaml(file.path, file.name)[0].get("presets") or {}
        data = "data" if spec.needs_data else "environment"
        spaces = ", ".join(spec.action_spaces)
        rows.append((name, data, spaces, spec.default_env, ", ".join(presets), spec.paper))
    print(text_table(("agent", "learns from", "actions", "default env", "presets", "arXiv"), rows))
    print()
    print(text_table(("agent", "what it is"), [(n, s.summary) for n, s in AGENTS.items()]))
    print("\nTrain one with: rlzoo train AGENT --env ID")
