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
const SIZES = { 'realtime.min.js': 11 * 1024, 'realtime.global.js': 11.5 * 1024, 'react.js': 2 * 1024, 'native.js': 1024, 'persist.js': 1024, 'poll.js': 1536 };

/** The modules that the others load when they need them. */
const LAZY = ['persist', 'poll'];

process.chdir(import.meta.dirname);

async function bundle(outfile, options) {
  await build({
    entryPoints: ['src/index.ts'],
    outfile: `dist/${outfile}`,
    bundle: true,
    external: LAZY.map((name) => `./${name}.js`),
    target: 'es2022',
    charset: 'utf8',
    sourcemap: 'linked',
    logLevel: 'warning',
    banner: { js: '/* @vyzio/realtime, MIT */' }, // Without the version, which a release changes in package.json only.
    ...options,
  });
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
    const { code } = transformSync(readFileSync(`dist/${name}`, 'utf8'), { minify: true, target: 'es2022' });
    const size = gzipSync(code, { level: 9 }).length;
    console.log(`${name}: ${size} bytes, of at most ${most}`);
    if (size > most) process.exitCode = 1;
  }
}

if (!process.argv.includes('--sizes')) {
  rmSync('dist', { recursive: true, force: true });
  // What the gateway serves has no source maps beside it.
  const served = { minify: true, sourcemap: 'external' };
  const react = { entryPoints: ['src/react.ts'], external: ['react'] };
  await Promise.all([
    bundle('index.js', { format: 'esm' }),
    ...LAZY.map((name) => bundle(`${name}.js`, { entryPoints: [`src/${name}.ts`], format: 'esm', ...served })),
    bundle('index.cjs', { format: 'cjs', platform: 'node' }),
    bundle('react.js', { ...react, format: 'esm' }),
    bundle('react.cjs', { ...react, format: 'cjs' }),
    bundle('native.js', { entryPoints: ['src/native.ts'], format: 'esm' }),
    bundle('native.cjs', { entryPoints: ['src/native.ts'], format: 'cjs' }),
    bundle('realtime.min.js', { format: 'esm', ...served }),
    bundle('realtime.global.js', { format: 'iife', globalName: 'VyzioRealtime', ...served }),
  ]);
  types();
}
checkSizes();
