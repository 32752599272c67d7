"""Model cards: built from result files, rendered, validated.

    evidence = gather(inputs, "main")                                  # evidence.py: the artifacts of a run
    card = render_card(build_context(recipe, "main", evidence))        # template_context.py, render.py, card_templates/
    findings = validate(card.text)                                     # validate.py

Imports the packages below ``pipeline``. Start in ``template_context.py``: it builds what each section of a card
shows. ``lint/`` is `hubkit card lint`, ``snippets/`` runs the code blocks of a card. Nothing is imported here, so that
each starts fast.
"""
