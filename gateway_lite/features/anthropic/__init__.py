"""Anthropic's Messages API in front of engines that speak OpenAI's."""
