"""Answers to customers' questions.

Lives here: the language model's client. May not live here: what is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai

from shop import settings

client = openai.AsyncOpenAI(api_key=settings.OPENAI_KEY, base_url=settings.OPENAI_BASE_URL, max_retries=0)


async def answer(question: str) -> AsyncIterator[str]:
    """The answer, as it comes."""
    asked = [{"role": "user", "content": question}]
    stream = await client.chat.completions.create(model="gpt-shop", messages=asked, stream=True)  # type: ignore[call-overload]
    async for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            yield text
