// sandbox-runtime's own HTTP proxy with its own domain matching, as its SandboxManager wires them: node srt.mjs PORT HOST PACKAGE
import { pathToFileURL } from 'node:url';
const [port, host, where] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${where}/dist/sandbox/${name}.js`));
const { createHttpProxyServer } = await load('http-proxy');
const { matchesDomainPatternWithPort } = await load('domain-pattern');
const { canonicalizeHost, isValidHost } = await load('parent-proxy');
const filter = (p, h) => isValidHost(h) && matchesDomainPatternWithPort(canonicalizeHost(h) ?? h, p, host);
createHttpProxyServer({ filter }).listen(Number(port), '127.0.0.1');
