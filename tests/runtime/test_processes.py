"""Processes that wait for the others of their launch."""

import signal


def test_a_process_that_waits_for_others_says_so_and_ends_when_told(fork_server, tmp_path):
    script = tmp_path / "waits.py"
    script.write_text(
        "from runtime import processes\n"
        "processes.SECONDS_OF_SILENCE = 0.2\n"
        "processes.join_group()\n"
    )
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    process = fork_server.start([script], folder=tmp_path, environment=place | meeting)
    while "warning: still waiting for other processes of this launch (2 at" not in process.stderr:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
