<?php
// A service for PHP-FPM; settings from the environment of its pool. Nothing lives longer than a request, so the routes are an array
// that the opcode cache keeps.
//
//     ROUTES: a PHP file that returns [path => [delay in ms, bytes of body, [path of a call, ...]], ...]; NEXT: host:port

$routes = require getenv("ROUTES");
[$delay, $size, $calls] = $routes[$_SERVER["REQUEST_URI"]] ?? [0, 2, []];
usleep($delay * 1000);
foreach ($calls as $path) {
    file_get_contents("http://" . getenv("NEXT") . $path);
}
header("Content-Type: text/plain");
header("Content-Length: $size");
echo substr("#" . str_repeat(".", 4095), 0, $size);
