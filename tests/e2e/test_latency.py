"""What makes an idle deployment cheap and quick: who has to look is told, and looks at nothing are few
and write nothing."""
import os
import sys
import time
import unittest
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from daemon import DaemonTest  # noqa: E402
from database import POOLER, DatabaseTest, until  # noqa: E402


class ToldTest(DatabaseTest):
    def worker(self):
        worker = str(uuid.uuid4())
        self.sql("select worker_enter('%s', 'here', 1, 0, 'workflow', 60000)" % worker)
        return worker

    def listen(self, *channels):
        connection = self.database.connect()
        for channel in channels:
            connection.sql("listen " + channel)
        self.assertEqual(set(), connection.heard())
        return connection

    def test_what_a_dead_worker_held_is_told_to_those_who_run(self):
        ears, dead, idle = self.listen("work"), self.worker(), self.worker()
        self.sql("select takeover('%s', null)" % idle)
        self.assertEqual(set(), ears.heard())  # it held nothing
        self.sql("insert into workflow_queue (instance_id, workflow_definition_id, worker) values "
                 "(gen_random_uuid(), 1, '%s')" % dead)
        self.assertEqual("1", self.sql("select takeover('%s', null)" % dead))
        self.assertEqual({"work"}, ears.heard())

    def test_what_is_put_in_force_is_told_to_those_who_run(self):
        ears = self.listen("work", "versions")
        self.sql("select versions_changed()")
        self.assertEqual({"versions"}, ears.heard())

    def test_a_turn_that_is_ours_for_long_yet_is_not_written_again(self):
        me, other = self.worker(), self.worker()
        turn = "select detect_turn('%s'); select pg_current_xact_id_if_assigned() is not null"
        self.assertEqual("t\nt", self.sql(turn % me))
        self.assertEqual("t\nf", self.sql(turn % me))
        self.assertEqual("f\nf", self.sql(turn % other))
        self.sql("update detector set until = clock_timestamp() + interval '9 s'")
        self.assertEqual("t\nt", self.sql(turn % me))
        self.assertEqual("t", self.sql("select until > clock_timestamp() + interval '14 s' from detector"))
        # With a database of its own for ServiceTitan, how far we are is always written.
        self.assertEqual("t\nt", self.sql((turn % me).replace("')", "', now())")))
        self.assertEqual("t", self.sql("select reached > now() - interval '10 s' from detector"))


class IdleTest(DaemonTest):
    roles = "sync,workflow,web,monitor"
    SECONDS = 10

    @classmethod
    def start(cls):
        del cls.environment["EVENT_POLL_INTERVAL_MS"], cls.environment["EXECUTE_POLL_INTERVAL_MS"]
        cls.sql("do $$ begin execute 'alter database ' || current_database() || ' set track_functions = pl'; end $$")
        super().start()

    def test_an_idle_deployment_asks_little(self):
        """What may be due is asked for once in five seconds, without ears once a second."""
        until(lambda: self.sql("select count(*) from workflow_workers"), "4", what="all roles")
        asked = "select coalesce(sum(calls), 0) from pg_stat_user_functions where funcname = 'next_due'"
        few, seen = self.SECONDS // 2, []
        for _ in range(4):
            before = int(self.sql(asked))
            time.sleep(self.SECONDS)
            seen.append(int(self.sql(asked)) - before)
            if POOLER or 0 < seen[-1] < few:
                break
        if POOLER:  # through which nobody is told of anything, and that is noticed
            self.assertGreater(seen[-1], few)
        else:
            self.assertTrue(0 < seen[-1] < few, seen)


if __name__ == "__main__":
    unittest.main()
