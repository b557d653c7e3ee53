"""All of `stepwell job`."""

from stepwell.cli import explanations, jobs

app = jobs.app
app.command("explain")(explanations.explain_job)
