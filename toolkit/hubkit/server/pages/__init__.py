"""Pages: what a browser sees. HTML from Jinja templates, rendered on the server, without JavaScript.

``views`` reads the values from repos, ``rendering`` turns cards and code into safe HTML in a child process
(``markup``), ``responses`` renders a template. The handlers are in ``routes.pages``.
Imports ``http`` and what lies below it. Start reading in ``views``.
"""
