#!/usr/bin/env node
/**
 * Writes TypeScript types of the kinds of messages, from a gateway or a folder of schemas:
 *
 *   VYZIO_TOKEN=… npx vyzio-kinds https://rt.example.com > src/kinds.ts
 *   npx vyzio-kinds ./kinds > src/kinds.ts
 */

import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';

const USAGE = 'usage: vyzio-kinds URL-OR-FOLDER > kinds.ts   (with the token of any user in VYZIO_TOKEN for a URL)';

async function fromServer(url) {
  const token = process.env.VYZIO_TOKEN;
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(`${url.replace(/\/+$/, '')}/api/kinds`, { headers });
  if (!answer.ok) throw new Error(`${url} answers ${answer.status}${token ? '' : '; VYZIO_TOKEN is not set'}`);
  return (await answer.json()).kinds;
}

async function fromFolder(folder) {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.json')).sort();
  const kind = async (name) => ({
    kind: name.slice(0, -'.json'.length),
    schema: JSON.parse(await readFile(join(folder, name), 'utf8')),
  });
  return Promise.all(names.map(kind));
}

/** `order.shipped` becomes `OrderShipped`, and so does `order_shipped`: see `typeNames`. */
const typeName = (kind) => kind.replace(/(?:^|[._])+([a-z0-9])/g, (_, first) => first.toUpperCase()).replace(/[._]/g, '');

/** The name of each kind's type. One that is taken gets underscores, which no other name has. */
function typeNames(kinds) {
  const taken = new Set(['Kinds', 'KindMessage', 'Message']);
  const names = new Map();
  for (const { kind } of kinds) {
    let name = typeName(kind);
    while (taken.has(name)) name += '_';
    taken.add(name);
    names.set(kind, name);
  }
  return names;
}

const comment = ({ description } = {}, indent) =>
  description ? `${indent}/** ${description.replaceAll('*/', '*\\/').replace(/\s+/g, ' ')} */\n` : '';

const union = (types) => [...new Set(types)].join(' | ') || 'never';

/** The type of a schema's values, within its document. What TypeScript can't express, such as a range, is left out. */
function typeOf(schema, root, indent = '', within = []) {
  if (schema === false) return 'never';
  if (schema === true || schema === undefined) return 'unknown';
  if (schema.$ref !== undefined) return typeOfReference(schema.$ref, root, indent, within);
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum) return union(schema.enum.map((value) => JSON.stringify(value)));
  const parts = [];
  if (schema.allOf) parts.push(...schema.allOf.map((part) => `(${typeOf(part, root, indent, within)})`));
  const choice = schema.oneOf ?? schema.anyOf;
  if (choice) parts.push(`(${union(choice.map((part) => typeOf(part, root, indent, within)))})`);
  if (schema.type || schema.properties) parts.push(plainType(schema, root, indent, within));
  return [...new Set(parts)].join(' & ') || 'unknown';
}

function typeOfReference(reference, root, indent, within) {
  // A type that contains itself would need a name.
  if (within.includes(reference)) return 'unknown';
  const path = reference.replace(/^#\/?/, '').split('/').filter(Boolean);
  const target = path.reduce((at, step) => at?.[step.replaceAll('~1', '/').replaceAll('~0', '~')], root);
  return typeOf(target, root, indent, [...within, reference]);
}

function plainType(schema, root, indent, within) {
  const types = [schema.type ?? 'object'].flat();
  return union(types.map((type) => {
    if (type === 'integer' || type === 'number') return 'number';
    if (type === 'string' || type === 'boolean' || type === 'null') return type;
    if (type === 'array') return `(${typeOf(schema.items, root, indent, within)})[]`;
    return objectType(schema, root, indent, within);
  }));
}

function objectType({ properties = {}, required = [], additionalProperties }, root, indent, within) {
  const inner = `${indent}  `;
  const lines = Object.entries(properties).map(([name, property]) => {
    const optional = required.includes(name) ? '' : '?';
    return `${comment(property, inner)}${inner}${JSON.stringify(name)}${optional}: ${typeOf(property, root, inner, within)};\n`;
  });
  if (additionalProperties !== false) lines.push(`${inner}[other: string]: unknown;\n`);
  return `{\n${lines.join('')}${indent}}`;
}

function fileOf(kinds) {
  const names = typeNames(kinds);
  const types = kinds.map(({ kind, schema }) => `${comment(schema, '')}export type ${names.get(kind)} = ${typeOf(schema, schema)};\n`);
  const entries = kinds.map(({ kind }) => `  ${JSON.stringify(kind)}: ${names.get(kind)};\n`);
  return `// Written by vyzio-kinds; do not edit.

import type { Message } from '@vyzio/realtime';

${types.join('\n')}
/** The data of each kind. */
export interface Kinds {
${entries.join('')}}

/** A message of a kind that is not deleted: \`kind\` tells what \`data\` is. */
export type KindMessage = { [K in keyof Kinds]: Message & { kind: K; deleted: false; data: Kinds[K] } }[keyof Kinds];
`;
}

const [source, ...more] = process.argv.slice(2);
if (!source || more.length || source.startsWith('-')) {
  console.error(USAGE);
  process.exit(2);
}
try {
  const kinds = await (/^https?:/.test(source) ? fromServer(source) : fromFolder(source));
  if (!kinds.length) throw new Error(`${source} has no kinds`);
  process.stdout.write(fileOf(kinds));
} catch (error) {
  console.error(`vyzio-kinds: ${error.message}`);
  process.exit(1);
}
