"""What every process needs of the queue: to enqueue, to wait for results, to abort."""
