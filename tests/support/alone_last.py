"""How pytest-xdist gives tests to its workers: file by file; tests that must run alone come last, on one worker."""

from collections import defaultdict

from xdist.scheduler import LoadScopeScheduling

ALONE = "alone"


class AloneLast(LoadScopeScheduling):
    """A unit of work is a file. The last one holds all tests that are marked `alone`.

    It goes to one worker, after all others have been shut down and have finished their tests.
    """

    def __init__(self, config, log, first_files, alone_file):
        super().__init__(config, log)
        self.first_files = first_files
        self.alone_file, self.alone = alone_file, frozenset()

    def _split_scope(self, nodeid):
        return ALONE if nodeid in self.alone else nodeid.split("::")[0]

    def schedule(self):
        if self.collection is None:
            if not self._check_nodes_have_same_collection():
                return
            self.alone = frozenset(self.alone_file.read_text(encoding="utf-8").splitlines())
            self.collection = list(next(iter(self.registered_collections.values())))
            self.places = {nodeid: place for place, nodeid in enumerate(self.collection)}
            units = defaultdict(dict)
            for nodeid in self.collection:
                units[self._split_scope(nodeid)][nodeid] = False
            self.workqueue.update(sorted(units.items(), key=self._place))
        for _ in range(2):  # a worker starts a test only if it has the next one too
            self._reschedule_all()

    def _place(self, unit):
        """The key for sorting units: files that take long come first, the tests that run alone last."""
        file = unit[0].rpartition("/")[2].removesuffix(".py")
        long = self.first_files.index(file) if file in self.first_files else len(self.first_files)
        return unit[0] == ALONE, long, -len(unit[1])

    def _assign_work_unit(self, node):
        """As the base class does it, without its search for each test among all."""
        name, unit = self.workqueue.popitem(last=False)
        self.assigned_work[node][name] = unit
        node.send_runtest_some([self.places[nodeid] for nodeid, is_done in unit.items() if not is_done])

    def _reschedule_all(self):
        for node in self.nodes:
            self._reschedule(node)

    def _reschedule(self, node):
        if node.shutting_down or next(iter(self.workqueue), None) != ALONE:
            super()._reschedule(node)
            return
        others = [other for other in self.nodes if other is not node]
        if not all(other.shutting_down for other in others):
            node.shutdown()  # it finishes its tests first
        elif not any(self._pending_of(self.assigned_work[other]) for other in others):
            super()._reschedule(node)

    def mark_test_complete(self, node, item_index, duration=0):
        super().mark_test_complete(node, item_index, duration)
        if node.shutting_down:
            self._reschedule_all()  # the last worker may have waited for this one

    def remove_node(self, node):
        """Give the tests that a worker has not run to others, except the one in which it crashed, which has failed."""
        units = self.assigned_work.pop(node)
        crashed = None
        for unit in units.values():
            for nodeid in unit:
                if crashed is None and not unit[nodeid]:
                    crashed, unit[nodeid] = nodeid, True
        self.workqueue.update({name: unit for name, unit in units.items() if not all(unit.values())})
        if ALONE in self.workqueue:
            self.workqueue.move_to_end(ALONE)
        self._reschedule_all()
        return crashed
