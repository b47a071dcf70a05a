"""The queue as every process needs it: to enqueue, to wait for results, to abort."""
