"""A visitor that is a program: asks the page's events as a browser does, and in ways that none would."""

import json

import httpx2


class Program:
    """A visitor without a browser."""

    def __init__(self, url, page):
        self.client, self.page = httpx2.Client(base_url=url, timeout=60), page
        self.client.get("/")
        config = self.client.get("/config").json()
        self.names = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self.events = config["dependencies"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def event(self, component, trigger):
        return next(event["id"] for event in self.events if [self.names[component], trigger] in event["targets"])

    def join(self, number, data, page=None, **more):
        body = {"fn_index": number, "data": data, "session_hash": page or self.page, "event_data": None, **more}
        return self.client.post("/gradio_api/queue/join", json=body)

    def run(self, number, data, **more):
        """What an event gives: the last message about it, and what was logged."""
        assert self.join(number, data, **more).status_code == 200
        logged = []
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.page}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "log":
                    logged.append(message["log"])
                if message.get("msg") == "process_completed":
                    return message, logged
        return {"success": False}, logged  # what Gradio itself has refused

    def after(self, number):
        """Runs what follows an event on the page, one after another."""
        message = None
        while following := [event["id"] for event in self.events if event.get("trigger_after") == number]:
            [number] = following
            message, _ = self.run(number, [])
        return message

    def send(self, text, settings=(0.95, 0.8, 1.1, 100)):
        return self.run(self.event("box", "submit"), [{"text": text, "files": []}, "", *settings])

    def shown(self):
        """What the page shows when a turn is over: the second of the events that a message begins draws it."""
        _, draws = [event["id"] for event in self.events if [self.names["box"], "submit"] in event["targets"]]
        self.run(draws, [])
        return self.after(draws)

    def listed(self):
        """The names of the conversations that the page lists."""
        part = self.names["conversations"]
        loads = [event for event in self.events if any(trigger == "load" for _, trigger in event["targets"])]
        [load] = [event for event in loads if part in event["outputs"]]
        message, _ = self.run(load["id"], [])
        update = message["output"]["data"][load["outputs"].index(part)]
        return [name for _, name in update["choices"]]

    def talk(self, text, settings=(0.95, 0.8, 1.1, 100)):
        """Says something; all texts that the page shows when the answer is complete."""
        self.send(text, settings)
        message = self.shown()
        shown = message["output"]["data"][0]["value"]
        return [part["text"] for item in shown for part in item["content"]]
