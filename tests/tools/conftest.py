"""Tools run in the process of the tests, as in tests/checks."""

from tests.checks.conftest import run_tool as run_tool
