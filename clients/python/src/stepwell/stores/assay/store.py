"""assay's `WorkflowStore`, put together."""

from __future__ import annotations

from stepwell.stores.assay.activities import Activities
from stepwell.stores.assay.archives import Archives
from stepwell.stores.assay.found import Found
from stepwell.stores.assay.schedules import Schedules
from stepwell.stores.assay.work import Work
from stepwell.stores.assay.workflows import Workflows


class WorkflowStore(Workflows, Activities, Work, Schedules, Found, Archives):
    """Answers like assay's `WorkflowStore`.

    What assay finds by an id alone is found in every namespace. What it does with a whole queue or with all that is
    due happens in the store's namespace.

    Differs: assay does that in all namespaces at once, so that workers of one get tasks of another with a queue of the
    same name, which its documents deny. A workflow that is not there is refused with `RunNotFound` where assay changes
    nothing and says nothing, or answers a database error. What has ended stays as it is (`RunTerminal`), where assay
    overwrites it. Creation and change times are the service's, not the record's.
    """
