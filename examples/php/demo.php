<?php

declare(strict_types=1);

/*
 * What an application does with jobd, in two steps:
 *
 *   php examples/php/demo.php add TARGET      insert a row, poke the master, go on
 *   php examples/php/demo.php run TARGET      insert a manual row, run it, print its result
 *
 * Where things are comes from the environment, with the values of a test set-up as defaults:
 *
 *   JOBD_DSN        mysql:host=127.0.0.1;dbname=app;charset=utf8mb4
 *   JOBD_DB_USER    app
 *   JOBD_DB_PASSWORD
 *   JOBD_TABLE      jobs
 *   JOBD_MASTER     127.0.0.1:7081
 *   JOBD_PASSWORD
 *
 * Exit codes: 0 ok, 1 failed, 2 usage.
 */

require __DIR__ . '/Jobd.php';

function setting(string $name, string $default): string
{
    $value = getenv($name);
    return $value === false ? $default : $value;
}

/** Inserts one row and returns its id. Put your own columns beside these. */
function insertJob(PDO $db, string $target, string $status): int
{
    $table = '`' . str_replace('`', '``', setting('JOBD_TABLE', 'jobs')) . '`';
    $insert = $db->prepare("INSERT INTO $table (target, time_created, status) VALUES (?, ?, ?)");
    $insert->execute([$target, time(), $status]);
    return (int) $db->lastInsertId();
}

function master(): Jobd
{
    [$host, $port] = explode(':', setting('JOBD_MASTER', '127.0.0.1:7081')) + [1 => '7081'];
    return new Jobd($host, (int) $port, setting('JOBD_PASSWORD', ''));
}

function add(PDO $db, string $target): int
{
    // The row must be committed before the poke, or workers look and find nothing.
    $id = insertJob($db, $target, 'waiting');
    echo "added job $id\n";
    try {
        master()->poke([$target]);
    } catch (JobdException $e) {
        // Nothing is lost: workers look by themselves every few seconds.
        fwrite(STDERR, "not poked: {$e->getMessage()}\n");
    }
    return 0;
}

function run(PDO $db, string $target): int
{
    $id = insertJob($db, $target, 'manual');
    $answer = master()->runManual([$id => $target]);
    if (!isset($answer['jobs'][$id])) {
        fwrite(STDERR, "job $id did not run: " . ($answer['errors'][$id] ?? 'no reason given') . "\n");
        return 1;
    }
    $job = $answer['jobs'][$id];
    $how = $job['signal'] !== null ? "signal {$job['signal']}" : "exit code {$job['code']}";
    echo "job $id: {$job['result']} ($how)\n", $job['stdout'];
    fwrite(STDERR, $job['stderr']);
    return $job['result'] === 'ok' ? 0 : 1;
}

[$command, $target] = array_slice($argv, 1) + ['', ''];
if (!in_array($command, ['add', 'run'], true) || $target === '') {
    fwrite(STDERR, "usage: php demo.php add|run TARGET\n");
    exit(2);
}
try {
    $db = new PDO(
        setting('JOBD_DSN', 'mysql:host=127.0.0.1;dbname=app;charset=utf8mb4'),
        setting('JOBD_DB_USER', 'app'),
        setting('JOBD_DB_PASSWORD', ''),
        [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION],
    );
    exit($command === 'add' ? add($db, $target) : run($db, $target));
} catch (PDOException | JobdException $e) {
    fwrite(STDERR, $e->getMessage() . "\n");
    exit(1);
}
