"""Writes down, as one ``torch.fx`` graph, what a network does with a batch of images.

The network is copied onto fake tensors, which have shapes but no memory and no arithmetic. The copy is run. Every torch
function that it calls becomes a node of the graph, with the qualified module names of the original.

Two batch sizes are followed at once. An integer that differs between the two depends on the batch size, and stays an
expression in the graph. All other sizes become constants, so Python control flow over sizes simply runs. Where control
flow depends on the *values* of a tensor, the innermost module in which that happens is kept whole, as one node.

The original is not changed. It is not run either, with one exception: a module that looks at values is copied, and the
copy is run on random numbers to learn the shapes of its results.
"""

from __future__ import annotations

import keyword
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.proxy import TracerBase
from torch.overrides import is_tensor_method_or_property
from torch.utils._pytree import tree_leaves

from smartedge.errors import CutError
from smartedge.models.blame import place_and_reason
from smartedge.models.recording.chance import Generators
from smartedge.models.recording.contexts import Context, context_now, other_context, own_context, usual_context
from smartedge.models.recording.counting import OperatorWatch
from smartedge.models.recording.fakes import Holdings, fake_copy, run_for_real, strange
from smartedge.models.recording.graph import BATCHES, Raw, Trace, defined_by_torch, shape_text, storage_of, tensors_in
from smartedge.models.recording.intercept import FunctionMode, observe_modules, observing, refuse_nesting
from smartedge.models.recording.replay import Event, FunctionCaches, Kept, Replay, forgotten_caches
from smartedge.models.recording.varying import LENGTH, Untraceable, decided, same, varying

__all__ = ["trace"]

_OTHER_AT_A_SECOND_CALL = (
    "Python code does something else at a second call: it counts calls, reads the time, changes an attribute, or keeps "
    "a result outside of the network (in a global; register it as a buffer)"
)


def trace(model: nn.Module, input_shape: tuple[int, ...], *, training: bool) -> Trace:
    """Record ``model`` in training or evaluation mode on images of ``input_shape``.

    Raises:
        CutError: it does not take images of that shape, its outermost ``forward`` cannot be written down, or this
            thread is recording another network at the moment.
    """
    refuse_nesting()
    whole: dict[str, str] = {}
    followed: set[str] = set()
    functions = FunctionCaches()
    while True:
        recorder = _Recorder(Trace(model, input_shape, training=training, whole=whole), followed)
        try:
            found = recorder.record(functions)
            constant = found.constant_modules() - followed
            if not constant:
                return found
            followed |= constant
        except (CutError, RecursionError):
            raise
        except Exception as error:
            if functions.forget():  # they may have answered with what they had kept from before
                continue
            where, reason = recorder.failed_in, place_and_reason(error)
            if "TorchScript" in str(error):  # it runs otherwise at a second call, and under autocast
                reason += " Functions under torch.jit.script cannot be followed."
            if not where or where in whole:
                raise CutError(
                    f"{type(model).__name__} cannot be divided: what its own forward does is not a fixed sequence of "
                    f"operations on a {shape_text(input_shape)} input ({reason}). Check the input shape; if the code "
                    "looks at values of tensors, draws random numbers or counts its calls, move that into a submodule, "
                    "which is then kept whole"
                ) from error
            whole[where] = reason
        finally:
            functions.forget()


class _Recorder(TracerBase):
    """Runs a fake copy of the network and fills a :class:`Trace`."""

    def __init__(self, empty: Trace, followed: set[str]) -> None:
        super().__init__()
        self.trace = empty
        self.followed = followed  # modules that are no single nodes although they have no submodules
        self.graph = self.trace.graph
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.model = fake_copy(empty.model, self.fake)
        for mode in (not empty.training, empty.training):
            self.model.train(mode)
            self.trace.other_mode[mode] = {p for p, m in self.model.named_modules() if m.training != mode}
        observe_modules(self.model, self)
        self.paths = {module: name for name, module in self.model.named_modules()}
        self.made_by: dict[int, fx.Node] = {}  # id of a tensor of the first batch → its latest node
        self.device_node: fx.Node | None = None
        self.used: set[str] = set(self.paths.values())  # names given to nodes; operations do not take modules' names
        self.holdings = Holdings(self.model)
        self.calls: dict[str, int] = {}
        self.running: list[nn.Module] = [self.model]  # modules being run, outermost first
        self.generators = Generators(self.model)
        self.error: Exception | None = None  # the latest to arise, and the innermost module in which it did
        self.failed_in = ""
        self.silent = False  # while something is only evaluated, not recorded
        self.events: list[Event] = []
        self.latest: fx.Node | None = None  # of the operation that was recorded last; None: it left none
        self.replay: Replay | None = None  # while the code runs again
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        self.dtype = torch.float32 if parameter is None else parameter.dtype

    def record(self, functions: FunctionCaches) -> Trace:
        trace = self.trace
        with self.fake:
            batches = [torch.empty(b, *trace.input_shape, device=self.device, dtype=self.dtype) for b in BATCHES]
        trace.input = self.graph.placeholder("images")
        self.keep(trace.input, (batches[0], batches[1]), "input")
        forget = forgotten_caches(self.model, functions)
        with torch.inference_mode(False), observing(self):
            try:
                with usual_context(), FunctionMode(self):
                    result = self.model(batches[0])
                    self.check_generators(self.model)
            finally:
                self.generators.restore()
            self.check_result(result)
            self.holdings.check_data()
            trace.output = self.graph.output(self.create_arg(result))
            self.check_memory(batches[0])
            contexts = self.run_again(0, batches[0], forget, _OTHER_AT_A_SECOND_CALL)
            self.run_again(1, batches[1], forget, "Python code depends on the number of images in the batch")
        for event, other in zip(self.events, contexts, strict=True):
            own = own_context(event.context, other)
            if event.node is not None and own is not None:
                trace.contexts[event.node] = own
        for node in reversed(trace.nodes):  # sizes that only Python used, members of a result that nothing used
            needless = node.target is operator.getitem or not tensors_in(trace.values[node])
            if not node.users and needless and node.target is not decided:
                self.forget(node)
        return trace

    def run_again(self, batch: int, images: Tensor, forget: Callable[[], None], reason: str) -> list[Context]:
        """Replay the recording (:mod:`smartedge.models.recording.replay`); returns the context of every event."""
        forget()
        self.replay = Replay(self.events, self.trace.values, batch, reason)
        try:
            with other_context(), FunctionMode(self):
                result = self.model(images)
            self.replay.end(self.trace.output.args[0], result)
            return self.replay.contexts
        finally:
            self.replay = None

    def check_memory(self, images: Tensor) -> None:
        """Refuse what the network keeps from a call, if the next call does something else and keeps something else."""
        try:
            self.run_again(0, images, lambda: None, _OTHER_AT_A_SECOND_CALL)
        except Untraceable:
            before = Kept(self.model)
            with self.evaluating(), usual_context(), self.fake:
                self.model(images)
            if not before.same_as(Kept(self.model)):
                raise

    def check_result(self, result: Any) -> None:
        leaves = tree_leaves(result)
        if not all(isinstance(leaf, Tensor) for leaf in leaves if leaf is not None):
            odd = next(leaf for leaf in leaves if leaf is not None and not isinstance(leaf, Tensor))
            raise CutError(
                f"{type(self.trace.model).__name__} answers with a {type(odd).__name__}; a network can be divided "
                "where it answers with tensors: wrap it in a module whose forward returns the logits"
            )

    def check_generators(self, module: nn.Module) -> None:
        """Blame ``module``, whose own code is running, for random numbers that were drawn since the last check."""
        if self.generators.drawn():
            self.failed_in = self.paths[module]
            self.error = Untraceable(f"{type(module).__name__}'s forward draws random numbers of Python or NumPy")
            raise self.error

    # ---- hooks into running code

    def mode_read(self) -> None:
        self.trace.reads_mode |= not self.silent

    def torch_called(self, function: Any, args: Any, kwargs: Any) -> Any:
        if self.silent:
            return function(*args, **kwargs)
        if not is_tensor_method_or_property(function):
            return self.asked("call_function", function, args, kwargs)
        if function.__name__ == "__len__":
            if self.replay is not None:
                return function(*args)
            return same(*map(len, self.trace.values[self.node_of(args[0])]), otherwise=LENGTH)
        if function.__name__ == "__iter__":
            return iter(args[0].unbind(0))
        if function.__name__ == "__get__":
            return self.asked("call_function", getattr, (args[0], function.__self__.__name__), {})
        return self.asked("call_method", function.__name__, args, kwargs)

    def function_applied(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.silent:
            return function(*args, **kwargs)
        return self.asked("call_function", function, args, kwargs)

    def module_called(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.silent:
            if self.paths.get(module) in self.trace.unknown_flops:
                return run_for_real(self.trace, self.fake, self.paths[module], args, kwargs)
            return call(module, *args, **kwargs)
        path = self.paths[module]
        count = self.calls[path] = self.calls.get(path, -1) + 1
        name = f"{path}_{count}" if count else path
        if path and self.replay is None:
            self.check_generators(self.running[-1])
        if path and self.is_whole(module, path) and not self.is_lent(module, path):
            if any(map(keyword.iskeyword, path.split("."))):
                raise Untraceable(f"the name {path} has a word of Python's; rename that module")
            out = self.asked("call_module", path, args, kwargs, name)
            self.holdings.renew(module)
            return out
        self.running.append(module)
        try:
            out = call(module, *args, **kwargs)
            if self.replay is None:
                self.check_generators(module)
        except Exception as error:
            if error is not self.error:
                self.error, self.failed_in = error, path
            raise
        finally:
            self.running.pop()
        if path and self.replay is None:
            self.trace.name_results(name, out, self.made_by)
        return out

    def asked(self, kind: str, target: Any, args: Any, kwargs: Any, name: str = "") -> Any:
        """The network's code has asked for an operation: record it, or, in a replay, look it up."""
        if self.replay is not None:
            return self.replay.answer(kind, target, args, kwargs)
        context = context_now()
        out = self.record_call(kind, target, args, kwargs, name)
        self.events.append(Event(kind, target, self.latest, out, context))
        if kind == "call_module":
            self.generators.drawn()  # what a module draws that stays whole, it draws again in every part
        return out

    def is_whole(self, module: nn.Module, path: str) -> bool:
        """Whether the module becomes one node.

        It does if torch.nn defines its class or a base of it, if it has no submodules, or if it could not be recorded.
        """
        if path in self.trace.whole or defined_by_torch(module):
            return True
        return path not in self.followed and not any(True for _ in module.children())

    def is_lent(self, module: nn.Module, path: str) -> bool:
        """Whether the module computes with other tensors than its own at the moment."""
        lent = self.holdings.lent(module)
        if lent and path in self.trace.whole:
            raise Untraceable(f"{path} is called with other parameters than its own")
        return lent

    # ---- recording

    def record_call(self, kind: str, target: Any, args: Any, kwargs: Any, name: str = "") -> Any:
        """Append a node, evaluate it for both batch sizes, and give the caller what the network expects to see."""
        with self.evaluating():
            return self._record_call(kind, target, args, kwargs, name)

    def _record_call(self, kind: str, target: Any, args: Any, kwargs: Any, name: str) -> Any:
        node = self.graph.create_node(kind, target, self.create_arg(tuple(args)), self.create_arg(dict(kwargs)))
        before = {id(t): (t, t._version) for n in node.all_input_nodes for t in tensors_in(self.trace.values[n][0])}
        watches = (OperatorWatch(), OperatorWatch())
        values = (self.evaluate(node, 0, watches[0]), self.evaluate(node, 1, watches[1]))
        if any(tensor.layout != torch.strided for tensor in tensors_in(values)):
            raise Untraceable(f"{self.name_of(target)} gives a tensor that is sparse or has another layout")
        written = [tensor for tensor, version in before.values() if tensor._version != version]
        if not written and not node.all_input_nodes and not tensors_in(values[0]):
            self.graph.erase_node(node)  # such as torch.is_grad_enabled()
            self.latest = None
            return values[0]
        self.trace.flops[node] = (watches[0].flops, watches[1].flops)
        if watches[0].random:
            self.trace.random.add(node)
        self.trace.writes += [(node, storage_of(tensor)) for tensor in written]
        out = self.keep(node, values, name or self.name_of(target))
        self.latest = node
        return out

    def evaluate(self, node: fx.Node, batch: int, watch: OperatorWatch) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.trace.values[n][batch])
        with self.fake, watch:
            if node.op == "call_function":
                return node.target(*args, **kwargs)  # type: ignore[operator]
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            try:
                return self.model.get_submodule(str(node.target))(*args, **kwargs)
            except Exception:
                return run_for_real(self.trace, self.fake, str(node.target), args, kwargs)

    def keep(self, node: fx.Node, values: tuple[Any, Any], name: str) -> Any:
        """Store what ``node`` gave and return it as the network shall see it."""
        self.trace.values[node] = values
        self.trace.names[node] = [self.unique(name) if node.op != "call_module" else name]
        first, second = values
        if isinstance(first, Tensor):
            self.made_by[id(first)] = node
            return first
        if isinstance(first, torch.Size):
            self.trace.reads_sizes = True
            tensor = node.args[0]
            return torch.Size(
                a if a == b else self.record_call("call_method", "size", (Raw(tensor), i), {})
                for i, (a, b) in enumerate(zip(first, second, strict=True))
            )
        if isinstance(first, (tuple, list)):
            same(len(first), len(second))
            items = [self.member(node, i) for i in range(len(first))]
            return type(first)(items) if type(first) in (tuple, list) else first
        if isinstance(first, dict):
            return {key: self.member(node, key) for key in first}
        if isinstance(first, (int, float)) and not isinstance(first, bool) and first != second:
            return varying(first, second, node, self.record_operator)
        if isinstance(first, int) and not isinstance(first, bool):
            self.trace.reads_sizes = True
        return first

    def record_operator(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return self.record_call("call_function", function, args, {})

    def member(self, node: fx.Node, key: Any) -> Any:
        return self.record_call("call_function", operator.getitem, (Raw(node), key), {})

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return self.node_of(a)
        if isinstance(a, Raw):
            return a.node
        if isinstance(a, torch.Size):
            a = tuple(a)
        if isinstance(a, torch.device) and a.type == self.device.type:
            return self.device_of_input()  # so that the parts follow their input to another device
        return super().create_arg(a)

    def node_of(self, tensor: Tensor) -> fx.Node:
        if id(tensor) in self.made_by:
            return self.made_by[id(tensor)]
        if id(tensor) not in self.holdings.names:
            raise Untraceable(strange(tensor))
        name = self.holdings.names[id(tensor)]
        node = self.graph.create_node("get_attr", name)
        self.trace.values[node], self.trace.names[node] = (tensor, tensor), [name]
        self.made_by[id(tensor)] = node
        return node

    def device_of_input(self) -> fx.Node:
        if self.device_node is None:
            with self.graph.inserting_after(self.trace.input):
                self.device_node = self.graph.call_function(getattr, (self.trace.input, "device"))
            self.trace.values[self.device_node] = (self.device, self.device)
            self.trace.names[self.device_node] = ["input.device"]
        return self.device_node

    def forget(self, node: fx.Node) -> None:
        if not any(node is writer for writer, _ in self.trace.writes):
            self.graph.erase_node(node)
            del self.trace.values[node], self.trace.names[node]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before

    def name_of(self, target: Any) -> str:
        operation = target if isinstance(target, str) else getattr(target, "__name__", "apply")
        operation = operation.strip("_")
        operation = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div"}.get(
            operation, operation
        )
        return f"{self.paths[self.running[-1]]}.{operation}".lstrip(".")

    def unique(self, name: str) -> str:
        count, candidate = 0, name
        while candidate in self.used:
            count += 1
            candidate = f"{name}_{count}"
        self.used.add(candidate)
        return candidate
