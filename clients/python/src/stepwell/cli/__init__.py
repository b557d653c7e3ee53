"""The command `stepwell`, for people; its `--output json` for scripts."""
