"""A visit to the Streamlit page, which has other elements for the same things."""

from web.running_page import Visit

BOX = "[data-testid=stChatInputTextArea]"
MESSAGE = "[data-testid=stChatMessage]"
PROMPT = "document.querySelector('.st-key-prompt-0')?.innerText"


class StreamlitVisit(Visit):
    def open(self):
        self.page.goto(self.url)
        self.ready()

    def reload(self):
        self.page.reload()
        self.ready()
        self.complaints.clear()

    def ready(self):
        self.page.wait_for_selector(BOX)
        self.page.wait_for_selector("[role=radiogroup] label:has-text('💬')")

    def write(self, text):
        box = self.page.locator(f"{BOX}:enabled")
        box.fill(text)
        box.press("Enter")

    def mode(self, sign):
        """Waits for the prompts of that mode: before, what is typed could be drawn anew."""
        shown = self.page.evaluate(PROMPT) or ""
        self.page.click(f"[data-testid=stMain] label:has-text('{sign}')")
        self.until(f"({PROMPT} ?? {shown!r}) !== {shown!r}")
        self.page.wait_for_selector(MESSAGE, state="detached")
        self.rests()

    def stop(self):
        self.page.click(".st-key-stop button")

    def reads(self, text):
        self.page.locator(MESSAGE, has_text=text).first.wait_for()

    def is_over(self):
        self.page.wait_for_selector(".st-key-retry button:enabled")
        self.page.wait_for_selector(".st-key-stop", state="detached")

    def press(self, key):
        self.page.click(f".st-key-{key} button")

    def rests(self):
        """Waits until everything is drawn; what is typed before may be drawn anew."""
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")

    @property
    def text(self):
        return self.page.inner_text("[data-testid=stMain]")
