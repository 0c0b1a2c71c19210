"""One module a task, configured and made by its `CONFIG`; `mohist.tasks.task` finds them."""
