"""All of `stepwell run`: what stands in modules of its own joins the rest."""

from stepwell.cli import (
    attributes,
    explanations,
    mends,
    retention,
    run_asks,
    runs,
    search,
    settling,
    steering,
    watches,
)

app = runs.app
app.command()(watches.watch)
app.command()(run_asks.query)
app.command()(run_asks.update)
app.command("delete")(retention.delete_run)
app.command()(attributes.attributes)
app.command()(search.search)
app.command("explain")(explanations.explain_run)
app.command("export")(retention.export_run)
app.add_typer(steering.app)
app.add_typer(mends.app)
app.add_typer(settling.app, name="step")
