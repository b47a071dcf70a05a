"""The queue, for every process: enqueue, wait for results, abort."""
