"""Which texts a step takes, and their features, which may have to be computed again for it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from adapters.data.features import FeatureFile, Layout, cached_features, shards_of
from adapters.data.sample import Sample, batches_of
from adapters.data.whole_model import WholeModel
from adapters.options import Progress, Recipe, StageProgress
from submodels.manifest import Manifest


class FeatureSource:
    """Where features come from: the whole model in the layout's number format, and a folder."""

    def __init__(
        self,
        load_model: Callable[[], WholeModel],
        manifest: Manifest,
        layout: Layout,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._load_model = load_model
        self._manifest = manifest
        self.layout = layout
        self._folder = folder
        self._progress = progress

    def features(self, samples: Sequence[Sample], name: str = "") -> FeatureFile:
        """The features of some texts; of each name the folder holds those asked for last."""

        def report(done: int, total: int) -> None:
            self._progress(StageProgress("states", done, total))

        folder = self._folder / name
        return cached_features(
            self._load_model, self._manifest, samples, folder, self.layout, report
        )


class TrainingOrder:
    """Passes over all texts: part by part, as many at a time as features fit on disk.

    Within a part the batches have a new order in every pass. With one part, its features are
    computed once; with several, again in every pass.
    """

    def __init__(
        self, source: FeatureSource, samples: Sequence[Sample], max_bytes: int, batch_size: int
    ) -> None:
        self._source = source
        indices = shards_of(samples, max_bytes, source.layout)
        self._shards = [[samples[index] for index in shard] for shard in indices]
        self._batches = [batches_of(shard, batch_size) for shard in self._shards]
        self._held: tuple[int, FeatureFile] | None = None

    @property
    def steps_per_pass(self) -> int:
        """How many steps go once through all texts."""
        return sum(map(len, self._batches))

    @property
    def steps_of_first_part(self) -> int:
        """How many steps need no more features than the first does."""
        return len(self._batches[0])

    def at(self, step: int, recipe: Recipe) -> tuple[FeatureFile, list[int]]:
        """The features that step `step` learns from, and which of their texts."""
        pass_index, within = divmod(step, self.steps_per_pass)
        shard = 0
        while within >= len(self._batches[shard]):
            within -= len(self._batches[shard])
            shard += 1
        order = recipe.batch_order(pass_index, len(self._batches[shard]))
        return self._features(shard), self._batches[shard][order[within]]

    def _features(self, shard: int) -> FeatureFile:
        if self._held is None or self._held[0] != shard:
            self._held = (shard, self._source.features(self._shards[shard]))
        return self._held[1]
