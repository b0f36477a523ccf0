"""DOOR the web pages of `chatglm web`.

What every page shares knows no UI library: events become a `view`, `no_html` makes a model's text safe to show, a
`Visitor` holds the session of one browser, `Visitors` ends those that have gone. The page (`gradio_*`) draws it.
"""
