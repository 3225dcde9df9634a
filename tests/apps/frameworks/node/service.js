// A service in one of Node's frameworks, each with the client that its users mostly take.
//
//     node service.js port=N routes=FILE [next=HOST:PORT] framework=express|fastify|nest
//
//   express   async handlers, axios        fastify   async handlers, undici's request
//   nest      a controller and a provider, fetch
'use strict';
const fs = require('fs');

const settings = Object.fromEntries(process.argv.slice(2).map((a) => [a.slice(0, a.indexOf('=')), a.slice(a.indexOf('=') + 1)]));
const table = new Map();
if (settings.routes) {
  for (const line of fs.readFileSync(settings.routes, 'utf8').split('\n')) {
    const [path, delay, size, ...calls] = line.split('\t');
    if (path) table.set(path, { delay: Number(delay), size: Number(size), calls: calls.filter(Boolean) });
  }
}
const filler = Buffer.alloc(4096, '.');
const nothing = { delay: 0, size: 2, calls: [] };
const port = Number(settings.port);
const base = `http://${settings.next}`;
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// What a handler does, with a client's `get`.
async function work(path, get) {
  const route = table.get(path) || nothing;
  if (route.delay) await sleep(route.delay);
  for (const call of route.calls) await get(base + call);
  return filler.subarray(0, route.size);
}

const FRAMEWORKS = {
  express() {
    const express = require('express');
    const axios = require('axios');
    const app = express();
    app.use(async (request, response) => {
      response.send(await work(request.path, (url) => axios.get(url)));
    });
    app.listen(port, '127.0.0.1');
  },
  fastify() {
    const fastify = require('fastify')();
    const { request: ask } = require('undici');
    fastify.get('/*', async (request, reply) => {
      const body = await work(request.url, async (url) => (await ask(url)).body.text());
      return reply.type('application/octet-stream').send(body);
    });
    fastify.listen({ port, host: '127.0.0.1' });
  },
  async nest() {
    require('reflect-metadata');
    const { Controller, Get, Injectable, Module, Req, Res } = require('@nestjs/common');
    const { NestFactory } = require('@nestjs/core');
    const decorate = (target, ...decorators) => decorators.forEach((decorator) => decorator(target));

    class Calls {
      get(path) { return work(path, async (url) => (await fetch(url)).text()); }
    }
    decorate(Calls, Injectable());
    class Routes {
      constructor(calls) { this.calls = calls; }
      async any(request, response) { response.send(await this.calls.get(request.path)); }
    }
    Reflect.defineMetadata('design:paramtypes', [Calls], Routes);
    Get('*path')(Routes.prototype, 'any', Object.getOwnPropertyDescriptor(Routes.prototype, 'any'));
    Req()(Routes.prototype, 'any', 0);
    Res()(Routes.prototype, 'any', 1);
    decorate(Routes, Controller());
    class App {}
    decorate(App, Module({ controllers: [Routes], providers: [Calls] }));
    const app = await NestFactory.create(App, { logger: false });
    await app.listen(port, '127.0.0.1');
  },
};
FRAMEWORKS[settings.framework]();
