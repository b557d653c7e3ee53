"""Why cases of several stores are not ours."""

from __future__ import annotations

ENGINE = "not ours: a rule of that engine, which asks the store only for what is recorded"
