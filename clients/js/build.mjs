// Builds dist from src: `node build.mjs`. With `--sizes`, it only checks the sizes of what is there.
//
// The JavaScript is committed, because the gateway embeds the files that it serves and must build without Node, and because the
// examples install this folder. A test compares it with the sources. Types and source maps are not committed; `npm pack`
// builds them.

import { build, transformSync } from 'esbuild';
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

/** The most bytes of a file, minified and compressed. */
const SIZES = {
  'realtime.min.js': 8 * 1024,
  'realtime.global.js': 8.5 * 1024,
  'edits.js': 1024,
  'kinds.js': 1.25 * 1024,
  'lists.js': 2.9375 * 1024,
  'persist.js': 1088,
  'poll.js': 1.875 * 1024,
  'presence.js': 1024,
  'settings.js': 1.375 * 1024,
  'react.js': 2.75 * 1024,
  'native.js': 512,
};

/** The modules that the others load when they need them. */
const LAZY = ['edits', 'kinds', 'lists', 'persist', 'poll', 'presence', 'settings'];

/** The files that the gateway serves. They are minified, and have no source maps beside them. */
const SERVED = ['realtime.min.js', 'realtime.global.js', ...LAZY.map((name) => `${name}.js`)];

/** Without the version, which a release changes in package.json only. */
const BANNER = '/* @vyzio/realtime, MIT */';

process.chdir(import.meta.dirname);

/**
 * The short names of members that begin with `_`, which only the client itself uses: the same in all files. They are
 * kept, so that a page which loaded the core before an update finds the same names in a module of the next version.
 */
const NAMES = 'names.json';
let mangleCache = JSON.parse(readFileSync(NAMES, 'utf8'));

const COMMON = {
  bundle: true,
  external: LAZY.map((name) => `./${name}.js`),
  target: 'es2022',
  charset: 'utf8',
  logLevel: 'warning',
  mangleProps: /^_/,
};

/** Gives each new member a short name: those that every page loads first, because they get the shortest ones. */
async function nameMembers() {
  for (const name of ['index', ...LAZY]) {
    const entryPoints = [`src/${name}.ts`];
    ({ mangleCache } = await build({ ...COMMON, entryPoints, format: 'esm', minify: true, mangleCache, write: false }));
  }
  writeFileSync(NAMES, `${JSON.stringify(mangleCache, null, 2)}\n`);
}

async function bundle(outfile, options) {
  const served = SERVED.includes(outfile);
  await build({
    ...COMMON,
    entryPoints: ['src/index.ts'],
    outfile: `dist/${outfile}`,
    minify: served,
    mangleCache,
    sourcemap: served ? 'inline' : 'linked',
    banner: { js: BANNER },
    ...options,
  });
  if (served) shorten(outfile);
}

/** Minifies a file once more: without the borders of modules, its names get shorter. */
function shorten(outfile) {
  const text = readFileSync(`dist/${outfile}`, 'utf8');
  const { code, map } = transformSync(text, {
    minify: true,
    target: 'es2022',
    charset: 'utf8',
    sourcemap: 'external',
    sourcefile: outfile,
    banner: BANNER,
  });
  writeFileSync(`dist/${outfile}`, code);
  writeFileSync(`dist/${outfile}.map`, map);
}

function types() {
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.types.json'], { stdio: 'inherit' });
  // The same for `require`, with the names that TypeScript looks for.
  for (const name of readdirSync('dist/types').filter((name) => name.endsWith('.d.ts'))) {
    const text = readFileSync(`dist/types/${name}`, 'utf8').replace(/(from ')(\.[^']*)\.js'/g, "$1$2.cjs'");
    writeFileSync(`dist/types/${name.replace('.d.ts', '.d.cts')}`, text);
  }
}

function checkSizes() {
  for (const [name, most] of Object.entries(SIZES)) {
    const text = readFileSync(`dist/${name}`, 'utf8');
    const code = SERVED.includes(name) ? text : transformSync(text, { minify: true, target: 'es2022' }).code;
    const size = gzipSync(code, { level: 9 }).length;
    console.log(`${name}: ${size} bytes, of at most ${most}`);
    if (size > most) process.exitCode = 1;
  }
}

if (!process.argv.includes('--sizes')) {
  rmSync('dist', { recursive: true, force: true });
  const react = { entryPoints: ['src/react.ts'], external: ['react'] };
  await nameMembers();
  await Promise.all([
    bundle('realtime.min.js', { format: 'esm' }),
    bundle('realtime.global.js', { format: 'iife', globalName: 'VyzioRealtime' }),
    ...LAZY.map((name) => bundle(`${name}.js`, { entryPoints: [`src/${name}.ts`], format: 'esm' })),
    bundle('index.js', { format: 'esm' }),
    bundle('index.cjs', { format: 'cjs', platform: 'node' }),
    bundle('react.js', { ...react, format: 'esm' }),
    bundle('react.cjs', { ...react, format: 'cjs' }),
    bundle('native.js', { entryPoints: ['src/native.ts'], format: 'esm' }),
    bundle('native.cjs', { entryPoints: ['src/native.ts'], format: 'cjs' }),
    ...['kinds', 'presence', 'settings'].map((name) => bundle(`${name}.cjs`, { entryPoints: [`src/${name}.ts`], format: 'cjs' })),
  ]);
  types();
}
checkSizes();
