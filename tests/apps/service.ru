# A Rack application for Puma; settings from the environment, as Rack applications get them. Each thread has a connection.
#
#     ROUTES=FILE NEXT=HOST:PORT puma -b tcp://127.0.0.1:N service.ru
require "net/http"

TABLE = File.readlines(ENV["ROUTES"], chomp: true).to_h do |line|
  token, delay, size, *calls = line.split("\t")
  [token, [delay.to_i / 1000.0, size.to_i, calls.reject(&:empty?)]]
end
FILLER = "#" + "." * 4095

def call_next(path)
  connection = Thread.current[:connection] ||= begin
    host, port = ENV["NEXT"].split(":")
    opened = Net::HTTP.new(host, port.to_i)
    opened.keep_alive_timeout = 60
    opened.start
  end
  connection.get(path).body
end

run(lambda do |environment|
  delay, size, calls = TABLE.fetch(environment["PATH_INFO"], [0, 2, []])
  sleep(delay)
  calls.each { |path| call_next(path) }
  [200, { "Content-Type" => "text/plain", "Content-Length" => size.to_s }, [FILLER[0, size]]]
end)
