"""Plans (built engines) on disk: records, cache, choice by profile, and the rule of trust."""
