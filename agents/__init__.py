"""The agent: network, PPO, training runs, evaluation against baselines, reports and the command line."""
