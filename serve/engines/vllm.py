"""The vLLM engine, for GPUs (extra `vllm`): an engine for each checkpoint in memory, LoRA students through vLLM's own.

vLLM brings its continuous batching, paged cache and multi-LoRA kernels; here is only the translation.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import Any

from serve.engines import Fetch, Statistics, Vocabulary
from serve.engines.weights import BrokenCheckpointError, brief
from serve.settings import HostedModel, ServingSettings
from serve.work import Failure, Piece, Work
from sftfilter.generate_request import GenerateRequest, TokenScore
from sftfilter.models import weights_hash

_GPU_SHARE = 0.9
_MAX_LORA_RANK = 64


class _Copy:
    """One vLLM engine; the deployment's cache closes it when it is evicted."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __del__(self) -> None:
        self.engine.shutdown()


class VllmEngine:
    """`StudentEngine` on vLLM."""

    def __init__(
        self, models: Sequence[HostedModel], settings: ServingSettings, vocabulary: Vocabulary, fetch: Fetch
    ) -> None:
        self.models = {model.id: model for model in models}
        self.copies = {model.copy_id: model for model in models}
        self.settings, self.vocabulary, self.fetch = settings, vocabulary, fetch
        self._numbers = {model.id: number for number, model in zip(count(1), models, strict=False)}
        self._done = Statistics()
        self._in_use: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    async def load(self, copy_id: str) -> Any:
        """Start vLLM on a checkpoint, or on the base of its students."""
        from vllm.engine.arg_utils import AsyncEngineArgs  # pyright: ignore[reportMissingImports]
        from vllm.v1.engine.async_llm import AsyncLLM  # pyright: ignore[reportMissingImports]

        model, settings = self.copies[copy_id], self.settings
        shared = model.adapter
        folder, expected = (shared.base_folder, shared.base_hash) if shared else (model.folder, model.model_hash)
        if (found := await asyncio.to_thread(weights_hash, folder)) != expected:
            raise BrokenCheckpointError(f"model '{model.id}': its files have hash {found}, expected {expected}")
        lora = {"enable_lora": True, "max_lora_rank": _MAX_LORA_RANK, "max_cpu_loras": settings.adapters_in_memory}
        arguments = AsyncEngineArgs(
            model=folder,
            tokenizer=self.vocabulary.tokenizer_folder,
            dtype=settings.dtype,
            load_format="safetensors",
            trust_remote_code=False,
            enable_prefix_caching=True,
            max_num_seqs=settings.max_batch,
            gpu_memory_utilization=_GPU_SHARE / settings.models_in_memory,
            **(lora if shared else {}),
        )
        self._done.loads += 1
        return _Copy(AsyncLLM.from_engine_args(arguments))

    def statistics(self) -> Statistics:
        """Sequences, tokens and loads; vLLM's own metrics say more."""
        self._done.running = self._in_use.total()
        return self._done

    async def answer(self, work: Work) -> AsyncIterator[list[Piece] | Failure]:
        """Pieces as they are made."""
        if work.model not in self.models:
            yield Failure(404, f"no model '{work.model}'", "model_not_found")
            return
        model = self.models[work.model]
        out: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        deadline = asyncio.get_running_loop().time() + work.timeout_s
        tasks: list[asyncio.Task[None]] = []
        try:
            async with self._copy(model) as engine:
                tasks += [
                    asyncio.create_task(self._one(engine, model, work, i, out)) for i in range(len(work.sequences))
                ]
                left = len(tasks)
                while left:
                    got = await asyncio.wait_for(out.get(), deadline - asyncio.get_running_loop().time())
                    if isinstance(got, Exception):
                        raise got
                    left -= got.finish_reason is not None
                    yield [got]
        except TimeoutError:
            yield Failure(504, f"no answer within {work.timeout_s:g} s", "timeout", retry_after_s=5)
        except Exception as error:
            code = "model_broken" if isinstance(error, BrokenCheckpointError) else "generation_failed"
            yield Failure(500, f"model '{model.id}': {brief(error)}", code)
        finally:
            for task in tasks:  # a cancelled task aborts its request in the engine
                task.cancel()

    @asynccontextmanager
    async def _copy(self, model: HostedModel) -> AsyncIterator[Any]:
        """The engine of a model; copies in use are counted, so that none of them is evicted."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: model.copy_id in self._in_use or len(self._in_use) < self.settings.models_in_memory
            )
            self._in_use[model.copy_id] += 1
        try:
            for copy_id in self._in_use:
                if copy_id != model.copy_id:
                    await self.fetch(copy_id)  # touched, so that the longest unused one is evicted
            yield (await self.fetch(model.copy_id)).engine
        finally:
            async with self._changed:
                self._in_use[model.copy_id] -= 1
                self._in_use = +self._in_use
                self._changed.notify_all()

    async def _one(self, engine: Any, model: HostedModel, work: Work, i: int, out: asyncio.Queue[Any]) -> None:
        try:
            request = work.sequences[i]
            made = engine.generate(
                {"prompt_token_ids": request.prompt_ids},
                self._sampling(request, work),
                uuid.uuid4().hex,
                lora_request=self._lora(model),
            )
            self._done.sequences += 1
            async with aclosing(made) as outputs:
                async for output in outputs:
                    piece = _piece(i, output, request, work)
                    self._done.tokens += len(piece.ids)
                    out.put_nowait(piece)
        except Exception as error:
            out.put_nowait(error)

    def _sampling(self, request: GenerateRequest, work: Work) -> Any:
        from vllm import SamplingParams  # pyright: ignore
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        return SamplingParams(
            max_tokens=max(1, request.max_tokens),  # vLLM scores no prompt without writing a token
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed % 2**63,
            stop=work.stops,
            stop_token_ids=[self.vocabulary.stop_id],
            logprobs=request.logprobs,
            prompt_logprobs=work.score_prompts,
            output_kind=RequestOutputKind.DELTA,
        )

    def _lora(self, model: HostedModel) -> Any:
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        if model.adapter is None or model.adapter.folder is None:
            return None
        return LoRARequest(model.id, self._numbers[model.id], model.adapter.folder)


def _piece(i: int, output: Any, request: GenerateRequest, work: Work) -> Piece:
    new = output.outputs[0]
    wanted = request.max_tokens > 0
    ids = list(new.token_ids) if wanted else []
    scores = [_score(token, table) for token, table in zip(ids, new.logprobs or (), strict=False)]
    end = None
    if ids and new.finish_reason == "stop" and not isinstance(new.stop_reason, str):
        end = ids.pop()  # the stop token is no part of the answer; the token that completes a stop string is
    prompt = None
    if work.score_prompts is not None and output.prompt_logprobs:
        pairs = zip(request.prompt_ids[1:], output.prompt_logprobs[1:], strict=True)
        prompt = [_score(token, table) for token, table in pairs]
    reason = None
    if output.finished:
        reason = "stop" if new.finish_reason == "stop" and wanted else "length"
    return Piece(i, ids, scores, prompt, reason, end)


def _score(token: int, table: Any) -> TokenScore:
    """From vLLM's token -> (logprob, rank); the token itself may be one more than was asked for."""
    top = sorted(((other, found.logprob) for other, found in table.items()), key=lambda pair: -pair[1])
    return TokenScore(table[token].logprob, tuple(top))
