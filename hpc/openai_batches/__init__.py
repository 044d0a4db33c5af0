"""OpenAI's Batch API behind the gateway: records on disk, and the batch processor."""
