"""What Streamlit runs anew whenever something happens on a page."""

from chatglm.web.streamlit_page import show

show()
