"""Results as tables and figures. Knows no agent."""
