"""One server for the tests that only ask it."""

import pytest
from running_server import RunningServer


@pytest.fixture(scope="session")
def server(python):
    running = RunningServer(python, "--log-level", "warning")
    yield running
    running.end()


@pytest.fixture(scope="session")
def client(server):
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one
