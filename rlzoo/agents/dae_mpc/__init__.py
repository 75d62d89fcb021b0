"""DAE-MPC: planning through a learnt model that stays on familiar ground (arXiv 1903.11981)."""
