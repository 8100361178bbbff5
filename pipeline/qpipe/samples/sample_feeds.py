"""What a network is fed for one sample: once, or chunk by chunk where outputs feed its states.

This file is sent to the board beside the agent, so it needs numpy and nothing else, and Python 3.8.
"""

from __future__ import annotations

from typing import (  # noqa: UP035  (Python 3.8 on the board)
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Tuple,
)

import numpy as np

from .preprocess import Shape, fits, network_input

Feeds = Dict[str, np.ndarray]  # noqa: UP006
Infer = Callable[[Feeds], Mapping[str, np.ndarray]]


class NetworkInputs(NamedTuple):
    """What a network takes."""

    shapes: Mapping[str, Shape]  # of its inputs, in order
    types: Mapping[str, str]  # of its inputs, as numpy names them
    # input -> the output of a chunk that it is fed with the next one
    states: Mapping[str, str]


class SampleFeeds:
    """What a network is fed for one sample; of a network with states the sample is a sequence.

    Inputs then have a first axis of chunks; one that has the network's own shape is fed alike with
    each chunk. A state begins as the sample's array of its name, or as zeros. Raise KeyError where
    the sample lacks an input, ValueError where inputs differ in their number of chunks.
    """

    def __init__(
        self,
        inputs: Mapping[str, np.ndarray],
        preprocessing: Mapping[str, Mapping[str, Any]],
        network: NetworkInputs,
    ) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.constant: Feeds = {}
        self.zero_states: List[str] = []  # noqa: UP006  those that the sample does not have
        self.sources: Dict[str, np.ndarray] = {}  # noqa: UP006  those with an axis of chunks
        names = _sample_names(inputs, network)
        for name, shape in network.shapes.items():
            if name in network.states and names[name] not in inputs:
                self.constant[name] = np.zeros(_sizes(shape), network.types[name])
                self.zero_states.append(name)
                continue
            source = inputs[names[name]]
            array = network_input(source, preprocessing[names[name]], shape)
            has_chunks = network.states and name not in network.states and source.ndim > 0
            if has_chunks and shape is not None and not fits(array, shape):
                self.sources[name] = source
            else:
                self.constant[name] = array
        self.names = names
        self.count = self._count_chunks()

    def _count_chunks(self) -> int:
        counts = {name: len(source) for name, source in self.sources.items()}
        if not counts:
            return 1
        if len(set(counts.values())) > 1 or 0 in counts.values():
            texts = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
            raise ValueError(f"chunks of its inputs: {texts}; give as many of each, at least one")
        return max(counts.values())

    def chunk(self, index: int, outputs_before: Mapping[str, np.ndarray]) -> Feeds:
        """Return what the network is fed with a chunk; states are outputs of the chunk before."""
        feeds = dict(self.constant)
        for name in self.sources:
            feeds[name] = self._chunk_of_input(name, index)
        if index > 0:
            for name, output in self.network.states.items():
                feeds[name] = outputs_before[output]
        return {name: feeds[name] for name in self.network.shapes}

    def _chunk_of_input(self, name: str, index: int) -> np.ndarray:
        how = self.preprocessing[self.names[name]]
        return network_input(self.sources[name][index], how, self.network.shapes[name])

    def sample_inputs(self) -> Feeds:
        """Return what the sample has of each input, as it is fed; chunks along a new axis 0."""
        feeds = dict(self.constant)
        for name in self.sources:
            chunks = [self._chunk_of_input(name, index) for index in range(self.count)]
            feeds[name] = np.stack(chunks)
        return {name: feeds[name] for name in self.network.shapes if name not in self.zero_states}

    def run(self, infer: Infer) -> Iterator[Tuple[Feeds, Mapping[str, np.ndarray]]]:  # noqa: UP006
        """Yield inputs and outputs of each chunk in turn."""
        outputs: Mapping[str, np.ndarray] = {}
        for index in range(self.count):
            feeds = self.chunk(index, outputs)
            outputs = infer(feeds)
            yield feeds, outputs

    def outputs(self, infer: Infer, *, with_states: bool = False) -> Mapping[str, np.ndarray]:
        """Return the outputs of the sample; of a sequence, those of all chunks along a new axis 0.

        Outputs that feed a state are left out, unless all do or `with_states` asks for them.
        """
        if not self.network.states:
            return infer(self.chunk(0, {}))
        chunks: Dict[str, List[np.ndarray]] = {}  # noqa: UP006
        for _, outputs in self.run(infer):
            names = [name for name in outputs if name not in self.network.states.values()]
            for name in outputs if with_states or not names else names:
                chunks.setdefault(name, []).append(outputs[name])
        return {name: np.stack(arrays) for name, arrays in chunks.items()}


def _sample_names(inputs: Mapping[str, np.ndarray], network: NetworkInputs) -> Dict[str, str]:  # noqa: UP006
    """Return the name in the sample of each input: where both have only one, it need not agree."""
    names = {name: name for name in network.shapes}
    fed = [name for name in network.shapes if name not in network.states]
    if len(inputs) == 1 and len(fed) == 1 and fed[0] not in inputs:
        names[fed[0]] = next(iter(inputs))
    return names


def _sizes(shape: Shape) -> List[int]:  # noqa: UP006
    return [size if isinstance(size, int) else 1 for size in shape or ()]
