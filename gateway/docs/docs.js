// Draws openapi.json as a page: every operation with its parameters, bodies and answers. Texts are set as texts only.

const METHODS = ['get', 'post', 'put', 'delete'];
let api;

/** An element: its attributes, and its children (elements or texts). */
function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children.flat().filter((child) => child !== undefined && child !== ''));
    return made;
}

/** A description: paragraphs, with `code` in backticks. */
function prose(text = '') {
    return text.split('\n\n').filter(Boolean).map((paragraph) => element('p', {}, inline(paragraph)));
}

function inline(text = '') {
    return text.split('`').map((part, index) => (index % 2 ? element('code', {}, part) : part));
}

const named = (schema) => schema.$ref?.split('/').pop();
const resolved = (schema) => (schema.$ref ? api.components.schemas[named(schema)] : schema);

/** A schema's type in a few words: `Message`, `array of UserId`, `string or null`. */
function type(schema) {
    if (schema.$ref) return [element('a', { href: `#schema-${named(schema)}` }, named(schema))];
    const several = schema.oneOf ?? schema.anyOf;
    if (several) return several.flatMap((one, index) => [index ? ' or ' : '', ...type(one)]);
    if (schema.type === 'array') return ['array of ', ...type(schema.items)];
    return [[schema.type].flat().join(' or '), limits(schema)];
}

function limits({ minimum, maximum, default: initial, format }) {
    const said = [];
    if (format === 'date-time') said.push('date-time');
    if (minimum !== undefined) said.push(`from ${minimum}`);
    if (maximum !== undefined) said.push(`to ${maximum}`);
    if (initial !== undefined) said.push(`${initial} unless said`);
    return said.length ? ` (${said.join(', ')})` : '';
}

function fields(schema) {
    const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => element('tr', {},
        element('td', {}, element('code', {}, name), schema.required?.includes(name) ? '' : element('span', { class: 'soft' }, ' optional')),
        element('td', {}, type(field)),
        element('td', {}, inline(field.description ?? resolved(field.oneOf?.find(named) ?? field).description))));
    return rows.length ? element('table', {}, rows) : undefined;
}

function parameters(list = []) {
    if (!list.length) return [];
    const rows = list.map(({ name, in: place, schema, description, required }) => element('tr', {},
        element('td', {}, element('code', {}, name), element('span', { class: 'soft' }, ` ${place}${required ? '' : ', optional'}`)),
        element('td', {}, type(schema)),
        element('td', {}, inline(description))));
    return [element('h4', {}, 'Parameters'), element('table', {}, rows)];
}

function body(request) {
    const schema = request?.content?.['application/json']?.schema;
    return schema ? [element('h4', {}, 'Body: ', type(schema)), fields(resolved(schema))] : [];
}

function answers(responses) {
    const rows = Object.entries(responses).map(([status, { description, content }]) => element('tr', {},
        element('td', {}, element('code', {}, status)),
        element('td', {}, inline(description)),
        element('td', {}, Object.values(content ?? {}).flatMap(({ schema }) => type(schema)))));
    return [element('h4', {}, 'Answers'), element('table', {}, rows)];
}

function example(method, path, operation) {
    const at = path.replaceAll(/\{.*?\}/g, '1');
    const sends = operation.requestBody ? " \\\n     -H 'Content-Type: application/json' -d '{…}'" : '';
    return element('pre', {}, `curl -X ${method.toUpperCase()} -H "Authorization: Bearer $TOKEN"${sends} \\\n     ${location.origin}${at}`);
}

function* operations() {
    for (const [path, item] of Object.entries(api.paths)) {
        for (const method of METHODS) {
            if (item[method]) yield { method, path, operation: item[method], id: item[method].operationId };
        }
    }
}

function draw() {
    const main = [element('h1', {}, api.info.title), ...prose(api.info.description),
        element('p', {}, 'For machines: ', element('a', { href: 'openapi.json' }, 'openapi.json'))];
    const contents = [element('strong', {}, 'The HTTP API')];
    for (const tag of api.tags) {
        const entries = [...operations()].filter(({ operation }) => operation.tags.includes(tag.name));
        contents.push(element('h2', {}, tag.name), element('ul', {}, entries.map(({ id, operation }) =>
            element('li', {}, element('a', { href: `#${id}` }, operation.summary)))));
        main.push(element('section', {}, element('h2', {}, tag.name), prose(tag.description)));
        for (const { method, path, operation, id } of entries) {
            main.push(element('article', { id }, element('h3', {}, operation.summary),
                element('p', { class: 'call' }, element('code', {}, element('span', { class: 'method' }, method.toUpperCase()), path)),
                prose(operation.description), parameters(operation.parameters), body(operation.requestBody),
                answers(operation.responses), example(method, path, operation)));
        }
    }
    const schemas = Object.entries(api.components.schemas);
    contents.push(element('h2', {}, 'Schemas'), element('ul', {}, schemas.map(([name]) =>
        element('li', {}, element('a', { href: `#schema-${name}` }, name)))));
    main.push(element('section', {}, element('h2', {}, 'Schemas'), schemas.map(([name, schema]) =>
        element('article', { id: `schema-${name}` }, element('h3', {}, name), prose(schema.description),
            fields(schema) ?? element('p', {}, type(schema))))));
    document.getElementById('main').replaceChildren(...main);
    document.getElementById('contents').replaceChildren(...contents);
    document.getElementById(location.hash.slice(1))?.scrollIntoView(); // It was not there when the page came.
}

api = await (await fetch('openapi.json')).json();
draw();
