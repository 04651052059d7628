<?php

declare(strict_types=1);

/**
 * Speaks to a jobd-master (or a jobd) over one TCP connection: the whole client, in plain PHP.
 *
 * A message is JSON followed by the byte 0x04. We send [0, {no, type, data}] and read
 * [1, {no, data}] or [1, {no, error}]. See docs/PROTOCOL.md.
 */
final class Jobd
{
    private const EOT = "\x04";

    /** @var resource */
    private $socket;
    private int $lastNo;
    private string $unread = '';

    /**
     * @param string $password sent with the first request, which is where it is needed
     * @param float $connectSeconds how long connecting may take: a page should not hang on it
     * @throws JobdException if nobody listens there
     */
    public function __construct(
        private readonly string $host = '127.0.0.1',
        private readonly int $port = 7081,
        private string $password = '',
        float $connectSeconds = 1.0,
    ) {
        $socket = @stream_socket_client("tcp://$host:$port", $code, $reason, $connectSeconds);
        if ($socket === false) {
            throw new JobdException("cannot reach jobd at $host:$port: $reason");
        }
        $this->socket = $socket;
        $this->lastNo = random_int(1, 900000);
    }

    /**
     * Tells the workers of these targets that there are new rows. Returns at once.
     *
     * @param list<string> $targets none means all
     */
    public function poke(array $targets = []): void
    {
        $this->request('poke', $targets === [] ? [] : ['targets' => $targets]);
    }

    /**
     * Runs rows of status `manual` and waits until all are done.
     *
     * @param array<int, string> $targetOfJob target by job id
     * @param int $seconds how long to wait; the jobs go on if it was too short
     * @return array{jobs: array<int, array{result: string, code: ?int, signal: ?string, stdout: string, stderr: string}>, errors: array<int, string>}
     */
    public function runManual(array $targetOfJob, int $seconds = 3600): array
    {
        $jobs = [];
        foreach ($targetOfJob as $id => $target) {
            $jobs[] = ['id' => $id, 'target' => $target];
        }
        $answer = $this->request('run-manual', ['jobs' => $jobs], $seconds);
        return ['jobs' => $answer['jobs'] ?? [], 'errors' => $answer['errors'] ?? []];
    }

    /** @return array{workers: list<array<string, mixed>>, memoryUsage: array<string, int>} */
    public function status(bool $pollWorkers = false): array
    {
        return $this->request('status', ['poll_workers' => $pollWorkers]);
    }

    /**
     * Sends any request and returns the `data` of its answer.
     *
     * @param array<string, mixed> $data
     * @throws JobdException if it was refused, or no answer came within $seconds
     */
    public function request(string $type, array $data = [], int $seconds = 10): mixed
    {
        $no = ++$this->lastNo;
        $request = ['no' => $no, 'type' => $type];
        if ($data !== []) {
            $request['data'] = $data;
        }
        if ($this->password !== '') {
            $request['password'] = $this->password;
            $this->password = '';
        }
        $this->send([0, $request]);
        stream_set_timeout($this->socket, $seconds);
        while (true) {
            [$kind, $answer] = $this->receive() + [1 => []];
            if ($kind === 2) { // a ping wants a pong
                $this->send([3]);
                continue;
            }
            // 0 answers a message that could not be read as a request at all.
            if ($kind === 1 && in_array($answer['no'] ?? null, [$no, 0], true)) {
                if (isset($answer['error'])) {
                    throw new JobdException("jobd refused $type: {$answer['error']}");
                }
                return $answer['data'] ?? null;
            }
        }
    }

    /** @param list<mixed> $message */
    private function send(array $message): void
    {
        $bytes = json_encode($message, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE) . self::EOT;
        while ($bytes !== '') {
            $sent = @fwrite($this->socket, $bytes);
            if ($sent === false || $sent === 0) {
                throw new JobdException("lost jobd at {$this->host}:{$this->port}");
            }
            $bytes = substr($bytes, $sent);
        }
    }

    /** @return list<mixed> */
    private function receive(): array
    {
        // A message may come in many pieces; only the newest piece is searched for its end.
        $from = 0;
        while (($end = strpos($this->unread, self::EOT, $from)) === false) {
            $from = strlen($this->unread);
            $piece = fread($this->socket, 65536);
            if ($piece === false || $piece === '') {
                $late = stream_get_meta_data($this->socket)['timed_out'];
                throw new JobdException($late ? 'jobd did not answer in time' : 'jobd closed the connection');
            }
            $this->unread .= $piece;
        }
        $message = substr($this->unread, 0, $end);
        $this->unread = substr($this->unread, $end + 1);
        return json_decode($message, true, 512, JSON_THROW_ON_ERROR);
    }
}

final class JobdException extends RuntimeException
{
}
