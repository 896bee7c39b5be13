"""A worker whose lease is gone still writes down what a vendor tells it: nobody else can know."""
import os
import sys
import threading
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "support")]
import world  # noqa: E402
from database import SERVER, until  # noqa: E402
from outbound import Vendor  # noqa: E402


class LostLeaseTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not SERVER:
            raise RuntimeError("MOONWRIGHT_TEST_DATABASE_URL is not set: run this with tools/test")
        cls.simulator = world.Simulator()
        cls.copy = world.template(cls.simulator.settings)

    @classmethod
    def tearDownClass(cls):
        cls.simulator.close()
        world.drop(cls.copy)

    def test_an_answer_that_comes_after_the_lease_is_kept(self):
        go, asked = threading.Event(), threading.Event()

        def slow(_):
            asked.set()
            go.wait(20)
            return 202, {"X-Message-Id": "late"}, ""
        vendor = Vendor(slow)
        self.addCleanup(vendor.close)
        w = world.World(self.simulator, self.copy, 1, more={
            "SENDGRID_BASE_URL": vendor.url, "INDOUBT_EMAIL_MS": "600000"})
        self.addCleanup(w.close)
        w.run()
        w.begin()
        self.assertTrue(asked.wait(30), "the e-mail is on the wire")
        w.sql("select takeover(id, null) from workflow_workers")
        until(lambda: "the lease is lost" in w.log(), True, 20)
        go.set()
        until(lambda: w.sql("select state || ' ' || settled_by from messaging_log where channel = 'email'"),
              "sent answer", 10)
        w.until_all(w.WAITING, 40)      # the next life goes on with it
        self.assertEqual(1, vendor.count("POST"))
        self.assertEqual([], w.settled)


if __name__ == "__main__":
    unittest.main()
