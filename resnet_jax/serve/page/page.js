// The page of `resnet-jax serve`. Whatever comes from the server or a file is put in as text, never as markup.

const SHOWN = 5; // classes
const COLORS = [[66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]]; // the bright part of inferno

const $ = (id) => document.getElementById(id);
const state = { networks: [], limits: null, cards: [], picture: null, asked: 0, abort: null };

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

const say = (text, seen = true) => {
  $('status').textContent = text;
  $('status').classList.toggle('unseen', !seen); // what the cards show is only read out
};
const percent = (share) => {
  const value = 100 * share;
  return value < 0.05 ? '< 0.1 %' : value > 99.95 && value < 100 ? '> 99.9 %' : `${value.toFixed(1)} %`;
};

async function request(path, options = {}) {
  const token = sessionStorage.getItem('token');
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server cannot be reached.');
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw Object.assign(new Error(answer.error?.message ?? `The server answers ${response.status}.`), { status: response.status });
}

async function start() {
  try {
    const { models, limits } = await request('v1/models');
    Object.assign(state, { networks: models, limits });
  } catch (error) {
    if (error.status !== 401) return say(error.message);
    say(sessionStorage.getItem('token') ? 'This token is wrong.' : '');
    $('ask-token').hidden = false;
    return $('token').focus();
  }
  say('');
  $('ask-token').hidden = true;
  $('choose').hidden = false;
  const several = state.networks.length > 1 ? `${state.networks.length} networks side by side: ` : '';
  $('networks').textContent = several + state.networks.map(({ name }) => name).join(', ');
  const secret = sessionStorage.getItem('token') ? " -H 'Authorization: Bearer TOKEN'" : '';
  $('example').textContent = `curl -F image=@cat.jpg${secret} ${location.origin}/v1/predict`;
  state.cards = state.networks.map(makeCard);
}

// A card for each network.

function makeCard(network) {
  const [height, width, channels] = network.image_shape;
  const photo = element('img', { className: 'photo', alt: '' });
  const view = element('img', { className: 'network-view', alt: '', hidden: true });
  const map = element('canvas', { className: 'map', width, height });
  const paint = map.getContext('2d', { willReadFrequently: true });
  const stage = element('div', { className: 'stage' }, photo, view, map);
  stage.classList.toggle('grey', channels === 1);
  stage.style.aspectRatio = `${width} / ${height}`;
  photo.style.objectFit = { crop: 'cover', squash: 'fill', pad: 'contain' }[network.resize];
  if (network.resize === 'crop') photo.style.transform = `scale(${1 / network.crop})`;
  photo.addEventListener('error', () => { card.unreadable = true; showViews(); }); // a format that only the server reads
  const caption = element('figcaption', { className: 'soft' });
  const said = element('p', { className: 'said' });
  const measured = element('p', { className: 'soft measured' });
  const classes = element('ol', { className: 'classes' });
  const problem = element('p', { className: 'problem', hidden: true });
  const body = element('div', { className: 'body' }, element('figure', {}, stage, caption), element('div', {}, said, measured, classes));
  const facts = [network.facts.model, network.facts.dataset, `${width} × ${height}`].filter((fact) => fact && fact !== network.name);
  const title = element('h2', { textContent: network.name });
  const header = element('header', {}, title, element('p', { className: 'soft', textContent: facts.join(' · ') }));
  const article = element('article', { className: 'network' }, header, problem, body);
  article.setAttribute('aria-label', network.name);
  const card = { network, article, body, photo, view, map, paint, caption, said, measured, classes, problem, maps: new Map(), unreadable: false };
  return card;
}

async function ask(card, signal, className) {
  const form = new FormData();
  form.append('image', state.picture, 'picture');
  form.append('model', card.network.name);
  form.append('top', SHOWN);
  if (className !== undefined) form.append('class', className);
  const path = card.network.explains ? 'v1/explain' : 'v1/predict';
  return (await request(path, { method: 'POST', body: form, signal })).predictions[0];
}

async function fill(card, signal) {
  card.article.classList.add('waiting');
  card.maps.clear();
  try {
    const answer = await ask(card, signal);
    showAnswer(card, answer);
    return `${card.network.name}: ${answer.class}, ${percent(answer.probability)}`;
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    showProblem(card, error);
    return `${card.network.name}: ${error.message}`;
  }
}

function showProblem(card, error) {
  card.article.classList.remove('waiting');
  card.problem.textContent = error.message;
  card.problem.hidden = false;
  card.body.hidden = true;
  if (error.status === 401) start();
}

function showAnswer(card, answer) {
  card.article.classList.remove('waiting');
  card.problem.hidden = true;
  card.body.hidden = false;
  card.said.replaceChildren(answer.class, ' ', element('span', { className: 'sure', textContent: percent(answer.probability) }));
  const measured = answer.measured;
  card.measured.hidden = !measured;
  if (measured) {
    const from = percent(measured.low), to = percent(measured.high);
    const sure = from === to ? `${from} sure` : `${from} to ${to} sure`;
    card.measured.textContent = `Of answers this sure, ${percent(measured.accuracy)} were right on the test set (${measured.count} answers, ${sure}).`;
  }
  card.classes.replaceChildren(...answer.top.map((one) => element('li', {}, makeClass(card, one))));
  if (card.network.explains) {
    card.maps.set(answer.explained, answer);
    showMap(card, answer);
  }
}

function makeClass(card, one) {
  const name = element('span', { className: 'name', textContent: one.class, title: one.class });
  const share = element('span', { className: 'share', textContent: percent(one.probability) });
  const fillOf = element('i');
  fillOf.style.width = `${100 * one.probability}%`;
  const bar = element('span', { className: 'bar' }, fillOf);
  bar.setAttribute('aria-hidden', 'true');
  const made = element(card.network.explains ? 'button' : 'div', { className: 'class' }, name, share, bar);
  if (card.network.explains) {
    made.type = 'button';
    made.dataset.class = one.class;
    made.addEventListener('click', () => explain(card, one.class));
  }
  return made;
}

async function explain(card, className) {
  const picture = state.asked;
  try {
    if (!card.maps.has(className)) card.maps.set(className, await ask(card, state.abort.signal, className));
  } catch (error) {
    return error.name === 'AbortError' ? undefined : showProblem(card, error);
  }
  if (picture !== state.asked) return;
  showMap(card, card.maps.get(className));
  say(`${card.network.name}: what speaks for ${className}`, false);
}

async function showMap(card, answer) {
  for (const button of card.classes.querySelectorAll('button')) button.setAttribute('aria-pressed', button.dataset.class === answer.explained);
  card.view.src = `data:image/png;base64,${answer.image}`;
  const image = new Image();
  image.src = `data:image/png;base64,${answer.map}`;
  await image.decode();
  if (card.maps.get(answer.explained) !== answer) return; // another picture has come
  card.paint.drawImage(image, 0, 0);
  const pixels = card.paint.getImageData(0, 0, card.map.width, card.map.height);
  let most = 0;
  for (let i = 0; i < pixels.data.length; i += 4) {
    most = Math.max(most, pixels.data[i]);
    const value = pixels.data[i] / 255;
    const place = value * (COLORS.length - 1);
    const low = Math.min(Math.floor(place), COLORS.length - 2);
    for (let c = 0; c < 3; c++) pixels.data[i + c] = COLORS[low][c] + (place - low) * (COLORS[low + 1][c] - COLORS[low][c]);
    pixels.data[i + 3] = 255 * Math.min(1, 0.15 + 1.1 * value); // what does not speak for the class stays a picture
  }
  card.paint.putImageData(pixels, 0, 0);
  card.caption.textContent = most ? `What speaks for ${answer.explained}` : `No part of the picture speaks for ${answer.explained}`;
  showViews();
}

function showViews() {
  for (const card of state.cards) {
    const seen = card.network.explains && ($('seen').checked || card.unreadable);
    card.view.hidden = !seen;
    card.photo.hidden = seen || card.unreadable;
    card.map.hidden = !card.network.explains;
    card.map.style.opacity = $('strength').value / 100;
  }
}

// A picture, however it comes.

async function show(file) {
  if (!file) return say('There is no picture in it.');
  if (file.size > 0.99 * state.limits.bytes) return say(`The picture has ${(file.size / 2 ** 20).toFixed(1)} MiB; the server takes at most ${(state.limits.bytes / 2 ** 20).toFixed(0)} MiB.`);
  state.abort?.abort();
  state.abort = new AbortController();
  state.picture = file;
  state.asked += 1;
  const number = state.asked;
  if (state.address) URL.revokeObjectURL(state.address);
  state.address = URL.createObjectURL(file);
  const explains = state.networks.some((network) => network.explains);
  $('choose').classList.add('chosen');
  $('views').hidden = $('overlay-help').hidden = !explains;
  for (const card of state.cards) {
    card.unreadable = false;
    card.photo.src = state.address;
    card.photo.alt = `The picture, as ${card.network.name} gets it`;
    card.paint.clearRect(0, 0, card.map.width, card.map.height);
  }
  if (!$('answers').children.length) $('answers').replaceChildren(...state.cards.map(({ article }) => article));
  showViews();
  say('Looking …');
  try {
    const found = await Promise.all(state.cards.map((card) => fill(card, state.abort.signal)));
    if (number === state.asked) say(found.join('; '), false);
  } catch (error) {
    if (error.name !== 'AbortError') throw error;
  }
}

for (const input of [$('file'), $('snap')]) {
  input.addEventListener('change', () => {
    if (input.files.length) show(input.files[0]);
    input.value = '';
  });
}
const isPicture = (file) => file.type.startsWith('image/') || file.type === '';
document.addEventListener('paste', (event) => {
  const file = [...event.clipboardData.files].find(isPicture);
  if (file && state.limits) show(file);
});
let depth = 0; // of elements that the dragged file is over
document.addEventListener('dragenter', () => { depth += 1; $('choose').classList.add('dropping'); });
document.addEventListener('dragleave', () => { depth -= 1; $('choose').classList.toggle('dropping', depth > 0); });
document.addEventListener('dragover', (event) => event.preventDefault());
document.addEventListener('drop', (event) => {
  event.preventDefault();
  depth = 0;
  $('choose').classList.remove('dropping');
  if (state.limits) show([...event.dataTransfer.files].find(isPicture));
});
$('strength').addEventListener('input', showViews);
$('seen').addEventListener('change', showViews);
$('ask-token').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem('token', $('token').value.trim());
  start();
});

// The camera: that of the page where there is one, and otherwise, as on a phone, that of the system.

$('camera').addEventListener('click', async () => {
  if (!navigator.mediaDevices || matchMedia('(pointer: coarse)').matches) return $('snap').click();
  try {
    $('video').srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch (error) {
    return say(error.name === 'NotAllowedError' ? 'The browser does not allow the camera.' : 'There is no camera.');
  }
  $('viewfinder').showModal();
  await $('video').play();
});
$('shutter').addEventListener('click', () => {
  const canvas = element('canvas', { width: $('video').videoWidth, height: $('video').videoHeight });
  canvas.getContext('2d').drawImage($('video'), 0, 0);
  canvas.toBlob((blob) => { $('viewfinder').close(); show(blob); }, 'image/png');
});
$('close-camera').addEventListener('click', () => $('viewfinder').close());
$('viewfinder').addEventListener('close', () => {
  for (const track of $('video').srcObject.getTracks()) track.stop();
  $('video').srcObject = null;
  $('camera').focus();
});

start();
