"""The subcommands of `covis`, one file each: options as a frozen dataclass, and what it does."""
