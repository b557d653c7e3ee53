"""The workflow stores that Stepwell mirrors, each as a class with the store's own methods.

    from stepwell.stores.assay import WorkflowStore

    async with WorkflowStore.connect("127.0.0.1:7233") as store:
        await store.create_workflow(workflow)

They are for engines that were written for one of those stores, and show which public RPCs answer a method: each
method is a few lines over them. Programs of one's own use `stepwell.Client`.

* Modules: `assay` (`WorkflowStore`), `stem` (`PostgresWorkflowStore`), `flow_orchestrator` (`FlowRunStore`), `vyuh`
  (`WorkflowStorage` and a module for each of its repositories), `squid_mesh` (`StepRunStore`, `AttemptStore`).
* Names are the store's own, to the letter: methods, their arguments, and the records with their fields. camelCase and
  PascalCase stay. What a language spells otherwise than Python is what Python has for it: an optional argument is one
  with a default, a tuple of results is a tuple, and every method is `async`.
* Records are frozen dataclasses. Enumerations are `StrEnum`s whose values are the store's words.
* Ids are `str`. Times are what the store has: seconds since 1970 as `float` for assay, `datetime` with a zone for the
  others. Durations are `timedelta`. What the store takes as JSON text is `str` here, kept to the letter; what it takes
  as a map or an object is a Python value that is JSON.
* An expected outcome is a value: `False`, `None`, an empty list. What the store throws, or answers as an error, is a
  `stepwell.errors.ServiceError`, by its reason: `RunNotFound`, `WorkflowIdInUse`, `RunTerminal`.
* A store lives in one namespace, `namespace=`, default `main`. A method of the store that names a namespace itself uses
  that. A method that finds a row by its id alone, in a store whose ids hold everywhere, asks with `namespace: "-"`.
* A call that fails in passing is repeated until `call_timeout` is over. Each write carries a request id, so a repeat
  does nothing twice.
* Where a store's code and its documents or tests disagree, documents and tests hold. Where we chose to differ from all
  of them, the method says so after "Differs:", with the reason.

What an engine may want that none of these stores has is in `stepwell.stores.engine` (`EngineStore`).

`docs/parity.md` lists every method with the RPCs that answer it and the test that proves it.
"""
