"""The devices a run computes on: one, or several replicas that each take an equal share of every global batch.

Only this module uses ``tf.distribute``, except for the probe that simulates replicas (``trainer.fingerprint``). Every
result is that of the global batch, so the number of replicas changes its last bits and nothing else. Every replica has
its own copy of the variables. All copies change in step, with the same numbers, each by the replica it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from trainer.config.schema import Config
from trainer.distributed import exchange, sharing
from trainer.distributed.addresses import Cluster
from trainer.distributed.sharing import Sharing
from trainer.errors import UsageError
from trainer.runtime.devices import physical_gpus

Rows = Mapping[str, tf.Tensor]  # tensors that agree in their first dimension, the examples
Share = Callable[[Rows, int], dict[str, tf.Tensor]]


class Replicas:
    """``count`` copies of the model's variables, ``here`` of them on the devices of this process, which is number
    ``process`` of ``processes``. ``notes`` say which other processes and devices idle, and why.

    ``input_device`` holds batches ahead of their use. None means the host's memory: from there each of several replicas
    receives its own rows.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        here: int,
        process: int = 0,
        input_device: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._strategy = strategy
        self.count = int(strategy.num_replicas_in_sync)
        self.here = here
        self.process = process
        self.processes = self.count // here
        self.input_device = input_device
        self.notes = notes
        self._sum = tf.function(self._sum_of_firsts, autograph=False)

    @property
    def layout(self) -> str:
        """The number of replicas and of their processes, as text: with another layout the last bits differ."""
        return str(self.count) if self.processes == 1 else f"{self.count} in {self.processes} processes"

    def scope(self) -> AbstractContextManager[object]:
        """Variables that are made in this block exist once on every replica's device."""
        scope: AbstractContextManager[object] = self._strategy.scope()
        return scope

    def run(self, compute: Callable[[Share], Any]) -> Any:
        """Run ``compute`` on every replica, inside a ``tf.function``; the result is that of the first one here.

        ``compute`` is given ``share(rows, blocks)``, which cuts the replica's equal share out of each of ``blocks``
        equal parts of rows. ``compute`` calls ``total`` for what must be the same on all replicas.
        """
        if self.count == 1:
            return compute(lambda rows, blocks: dict(rows))

        def on_replica() -> Any:
            number = self._number()
            return compute(lambda rows, blocks: _share(rows, blocks, number, self.here))

        results = self._strategy.run(on_replica)
        return tf.nest.map_structure(lambda value: self._strategy.experimental_local_results(value)[0], results)

    def sum_over_processes(self, values: tf.Tensor) -> tf.Tensor:
        """The sum of the ``values`` of all processes, tensors of one shape and type. Every process must call this."""
        if self.processes == 1:
            return self._sum(values)
        with exchange.OWN.waiting():
            return self._sum(values)

    def _sum_of_firsts(self, values: tf.Tensor) -> tf.Tensor:
        def on_replica() -> tf.Tensor:
            (added,) = total([values if self._number() == 0 else tf.zeros_like(values)])
            return added

        return self._strategy.experimental_local_results(self._strategy.run(on_replica))[0]

    def copy_from_chief(self, variables: Iterable[tf.Variable]) -> None:
        """Copy the values of process 0's variables to all processes. Every process must call this."""
        if self.processes == 1:
            return
        by_type: dict[tf.DType, list[tf.Variable]] = {}
        for variable in variables:
            by_type.setdefault(variable.dtype, []).append(variable)
        for group in by_type.values():
            own = tf.concat([tf.reshape(variable, [-1]) for variable in group], 0)
            chiefs = self.sum_over_processes(own if self.process == 0 else tf.zeros_like(own))
            values = tf.split(chiefs, [variable.shape.num_elements() for variable in group])
            for variable, value in zip(group, values, strict=True):
                variable.assign(tf.reshape(value, variable.shape))

    def _number(self) -> int:
        """The number of the calling replica among those of this process."""
        return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)) % self.here


def _share(rows: Rows, blocks: int, number: int, count: int) -> dict[str, tf.Tensor]:
    def cut(tensor: tf.Tensor) -> tf.Tensor:
        size, *inner = tensor.shape
        parts = tf.reshape(tensor, [blocks, count, size // (blocks * count), *inner])
        return tf.reshape(parts[:, number], [size // count, *inner])

    with tf.device("/device:CPU:0"):  # so that a device receives its own rows only
        return {name: cut(tensor) for name, tensor in rows.items()}


ONE_DEVICE = Replicas(tf.distribute.get_strategy(), here=1)


def count_here() -> int:
    """How many replicas run the calling code together."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def total(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The sums over all replicas of tensors of one type, from inside ``Replicas.run``; differentiable."""
    if count_here() == 1:
        return list(values)
    here = [tf.identity(value) for value in values]  # on the replica's device, wherever they come from
    return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here))


def gathered(value: tf.Tensor) -> tf.Tensor:
    """The values of all replicas, ``[count, *value.shape]``, from inside ``Replicas.run``; differentiable.

    ``ReplicaContext.all_gather`` has the same values and gradients, in 361 operations instead of 153 (TensorFlow 2.21,
    two CPU replicas, forward and backward): it asks for the shapes of all replicas first.
    """
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    own_row = tf.one_hot(number, count_here(), dtype=value.dtype)
    (rows,) = total([tf.tensordot(own_row, value, axes=0)])
    return rows


def copies(value: tf.Tensor) -> tf.Tensor:
    """Bit for bit what every replica has, ``[count, *value.shape]``, from inside ``Replicas.run``.

    Unlike ``gathered`` nothing is added, which would turn a negative zero into a positive one.
    """
    rows: tf.Tensor = tf.distribute.get_replica_context().all_gather(value[tf.newaxis], axis=0)
    return tf.ensure_shape(rows, [count_here(), *value.shape])


def assign(variable: tf.Variable, value: tf.Tensor) -> None:
    """Set the copy of ``variable`` that belongs to the calling replica.

    ``tf.distribute`` lets a replica assign only a value that it aggregates over all replicas once more.
    """
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.cast(value, variable.dtype))


def assign_sub(variable: tf.Variable, change: tf.Tensor) -> None:
    """Subtract from the copy of ``variable`` that belongs to the calling replica."""
    tf.raw_ops.AssignSubVariableOp(resource=variable.handle, value=tf.cast(change, variable.dtype))


_mirrored: list[int] = []  # the strategy that this process has made, by its number of replicas


def devices_here() -> int:
    """How many devices this process has for a run that several processes share."""
    # logical ones exist when TensorFlow runs, too late for a cluster; on a CPU, TensorFlow's strategy for several
    # processes knows one device in each
    return len(physical_gpus()) or 1


def replicas_of(config: Config, cluster: Cluster, shared: Sharing) -> Replicas:
    """The replicas of a run that several processes share, in one of those that compute; waits for the others of them.

    Raises:
        UsageError: this process has fewer devices than the others compute on, or XLA cannot compile what they exchange.
    """
    notes = sharing.notes(config, cluster.workers, devices_here(), shared)
    if shared.processes == 1:
        return replicas_here(config, notes)
    gpus = physical_gpus()
    if devices_here() < shared.devices:
        raise UsageError(
            f"worker {cluster.rank} at {cluster.workers[cluster.rank]} has {devices_here()} GPUs, and the chief "
            f"computes on {shared.devices}: give every process as many"
        )
    _refuse_xla(config, shared.processes * shared.devices)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers[: shared.processes])}),
        task_type="worker",
        task_id=cluster.rank,
        num_accelerators={"GPU": shared.devices if gpus else 0},
        rpc_layer="grpc",
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    return Replicas(strategy, shared.devices, cluster.rank, notes=notes)


def replicas_here(config: Config, notes: tuple[str, ...] = ()) -> Replicas:
    """The replicas that ``runtime.strategy`` asks for over the devices of this process, which computes alone: as many
    as can take equal shares.

    Raises:
        UsageError: XLA cannot compile what they exchange, or this process has computed on several replicas before.
    """
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    there = 1 if config.runtime.strategy == "one" else len(devices)
    shared = sharing.share_out(config, 1, there)
    count = shared.devices
    if count < there:
        notes = (f"{there - count} of {there} devices idle: {shared.reason}", *notes)
    _refuse_xla(config, count)
    if count == 1:
        if not gpus and not notes:
            return ONE_DEVICE
        return Replicas(tf.distribute.get_strategy(), 1, input_device=gpus[0].name if gpus else None, notes=notes)
    if _mirrored:
        raise UsageError(
            f"this process has run over {_mirrored[0]} replicas already, and TensorFlow numbers what replicas exchange "
            "once in a process\nrun it in a process of its own (in a notebook: restart the kernel), or on one device: "
            "runtime.strategy=one"
        )
    _mirrored.append(count)
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices[:count]])
    return Replicas(strategy, count, notes=notes)


def _refuse_xla(config: Config, count: int) -> None:
    if count > 1 and config.runtime.xla and config.model.batch_norm.synchronized:
        raise UsageError(
            f"runtime.xla=true cannot compile a batch norm that is synchronised over {count} replicas; set "
            "model.batch_norm.synchronized=false for statistics over groups of examples, or runtime.xla=false"
        )
