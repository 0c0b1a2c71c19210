"""One module a grader, configured and made by its `CONFIG`; `mohist.tasks.grader` finds them."""
