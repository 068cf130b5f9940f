"""The oracle: the environment of RULES.md in slow, plain Python with exact integers, independent of the fast one."""
